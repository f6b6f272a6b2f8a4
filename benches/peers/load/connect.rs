//! New connections: each carries one exchange, either 16 bytes that come back or one HTTP request.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::Done;
use crate::arguments::Arguments;
use crate::figures::{Figures, join};
use crate::{http, sockets};

const HTTP_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
const MESSAGE: &[u8; 16] = b"0123456789abcdef";

pub(crate) fn run(arguments: &Arguments) -> Done {
    let target = arguments.address("target")?;
    let clients: u32 = arguments.get("conns", 1)?;
    let period = Duration::from_secs(arguments.get("secs", 2)?);
    // Bounded in number too, since every connection leaves a local port behind for a minute.
    let most = arguments.get("max", 200_000_u32)? / clients.max(1);
    let over_http = arguments.get("http", 0_u8)? == 1;

    let start = Instant::now();
    let threads = (0..clients).map(|_| {
        thread::spawn(move || {
            let mut figures = Figures::new()?;
            let mut buffer = vec![0; http::ANSWER_BYTES_MAX];
            for _ in 0..most {
                if start.elapsed() >= period {
                    break;
                }
                let began = Instant::now();
                match one(target, over_http, &mut buffer) {
                    Ok(()) => figures.record(began.elapsed()),
                    Err(_) => figures.errors += 1,
                }
            }
            Ok(figures)
        })
    });
    let figures = join(threads.collect())?;
    println!("connect {}", figures.line(start.elapsed()));
    // As a probe, the exit code is the answer.
    if arguments.get("strict", 0_u8)? == 1 && figures.errors > 0 {
        Err("no exchange came through".into())
    } else {
        Ok(())
    }
}

fn one(target: SocketAddr, over_http: bool, buffer: &mut [u8]) -> std::io::Result<()> {
    let mut stream = sockets::connect(target)?;
    if over_http {
        return http::exchange(&mut stream, HTTP_REQUEST, buffer);
    }
    stream.write_all(MESSAGE)?;
    let mut answer = [0; MESSAGE.len()];
    stream.read_exact(&mut answer)
}
