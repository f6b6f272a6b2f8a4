//! Mutual TLS connections to an agent's data port that are opened by the clock and closed at once.

use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fixtures::judge::wall_clock;
use rustls::{ClientConfig, ClientConnection};
use starling_identity::tls;
use starling_model::NodeName;

use crate::Done;
use crate::arguments::Arguments;
use crate::issuer::Issuer;

/// Longest wait for a side that says nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Threads that share the rate: few enough to stay below what one source may have under way.
const DIALLERS: u32 = 4;

/// Says at its end how many handshakes came about and how many did not.
#[expect(clippy::print_stdout, reason = "who started this reads the line")]
pub(crate) fn run(arguments: &Arguments) -> Done<()> {
    let issuer = Issuer::load(&arguments.get("trust", PathBuf::new())?)?;
    let (target, expected) = (arguments.address("target")?, NodeName::new(&arguments.get("node", "vm-a".to_owned())?)?);
    let (rate, secs): (u32, u64) = (arguments.get("rate", 200)?, arguments.get("secs", 5)?);
    let (_, current) = issuer.identity("dialler")?;
    let client = tls::data_client(&current, expected, wall_clock);
    let (gap, end) = (Duration::from_secs(1) * DIALLERS / rate.max(1), Duration::from_secs(secs));
    let start = Instant::now();
    let threads = (0..DIALLERS).map(|number| {
        let client = Arc::clone(&client);
        thread::spawn(move || {
            let (mut done, mut failed, mut next) = (0_u32, 0_u32, start + gap * number / DIALLERS);
            while next < start + end {
                thread::sleep(next.saturating_duration_since(Instant::now()));
                match shake(target, &client) {
                    Ok(()) => done += 1,
                    Err(_) => failed += 1,
                }
                next += gap;
            }
            (done, failed)
        })
    });
    let (mut done, mut failed) = (0, 0);
    for thread in threads.collect::<Vec<_>>() {
        let (more, worse) = thread.join().map_err(|_| "a dialler died")?;
        done += more;
        failed += worse;
    }
    println!("handshakes done={done} failed={failed}");
    Ok(())
}

fn shake(target: std::net::SocketAddr, client: &Arc<ClientConfig>) -> Done<()> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut connection = ClientConnection::new(Arc::clone(client), tls::server_name())?;
    // Our own last flight included: then the agent has all that it needs to finish.
    while connection.is_handshaking() || connection.wants_write() {
        connection.complete_io(&mut stream)?;
    }
    connection.send_close_notify();
    connection.complete_io(&mut stream)?;
    Ok(())
}
