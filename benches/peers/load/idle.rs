//! Many connections that have carried one request each and then only exist.

use std::io::Write as _;
use std::time::Duration;

use crate::Done;
use crate::arguments::Arguments;
use crate::{http, sockets};

pub(crate) fn run(arguments: &Arguments) -> Done {
    let target = arguments.address("target")?;
    let count: u32 = arguments.get("conns", 1_000)?;
    let hold = Duration::from_secs(arguments.get("hold", 2)?);
    let mut buffer = vec![0; http::ANSWER_BYTES_MAX];
    let mut open = Vec::new();
    let mut errors = 0;
    for _ in 0..count {
        match sockets::connect(target) {
            Ok(mut stream) => {
                if http::exchange(&mut stream, b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n", &mut buffer).is_err() {
                    errors += 1;
                }
                open.push(stream);
            }
            Err(_) => errors += 1,
        }
    }
    // The script waits for this line and looks at the peers' memory while the connections are held.
    println!("idle open={} errors={errors}", open.len());
    std::io::stdout().flush()?;
    std::thread::sleep(hold);
    Ok(())
}
