//! Open-loop latency of HTTP/1.1: requests start by the clock and are timed from when they *should* have started, so a
//! stall is counted for every request that it delayed (no coordinated omission).

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::Done;
use crate::arguments::Arguments;
use crate::figures::{Figures, join};
use crate::{http, sockets};

/// Time for all threads to connect before the first request is due.
const HEAD_START: Duration = Duration::from_millis(300);

pub(crate) fn run(arguments: &Arguments) -> Done {
    let target = arguments.address("target")?;
    let rate: u32 = arguments.get("rate", 2_000)?;
    let connections: u32 = arguments.get("conns", 16)?;
    let period = Duration::from_secs(arguments.get("secs", 5)?);
    let path: String = arguments.get("path", "/".to_owned())?;
    let request: Arc<str> =
        format!("GET {path} HTTP/1.1\r\nHost: bench\r\nUser-Agent: peers-load\r\nAccept: */*\r\n\r\n").into();

    let start = Instant::now() + HEAD_START;
    let gap = Duration::from_secs(1) * connections / rate.max(1);
    let threads = (0..connections).map(|number| {
        let request = Arc::clone(&request);
        thread::spawn(move || {
            // The kernel may otherwise wake a sleeper 50 us late, which is as much as some peers add.
            let _ = nix::sys::prctl::set_timerslack(1);
            let mut figures = Figures::new()?;
            let mut buffer = vec![0; http::ANSWER_BYTES_MAX];
            let Ok(mut stream) = sockets::connect(target) else {
                figures.errors += 1;
                return Ok(figures);
            };
            // The first request also opens what lies behind the peer; it is not timed.
            let _ = http::exchange(&mut stream, request.as_bytes(), &mut buffer);
            let mut next = start + gap * number / connections;
            while next < start + period {
                thread::sleep(next.saturating_duration_since(Instant::now()));
                if http::exchange(&mut stream, request.as_bytes(), &mut buffer).is_err() {
                    figures.errors += 1;
                    if let Ok(again) = sockets::connect(target) {
                        stream = again;
                    }
                }
                figures.record(next.elapsed());
                next += gap;
            }
            Ok(figures)
        })
    });
    let figures = join(threads.collect())?;
    println!("latency {}", figures.line(period));
    Ok(())
}
