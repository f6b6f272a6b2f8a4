//! One stream as fast as it goes. The sink's count, not ours, is what arrived.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::Done;
use crate::arguments::Arguments;
use crate::sockets;

/// Large enough that the system calls of the sender do not shape the figure.
const BLOCK_BYTES: usize = 256 << 10;
/// All buffers on the way must drain within this.
const DRAIN_DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn run(arguments: &Arguments) -> Done {
    let target = arguments.address("target")?;
    let period = Duration::from_secs(arguments.get("secs", 4)?);
    let mut stream = sockets::connect(target)?;
    stream.set_read_timeout(Some(DRAIN_DEADLINE))?;
    let block = vec![7; BLOCK_BYTES];
    let start = Instant::now();
    while start.elapsed() < period {
        match stream.write(&block) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    let bytes = u64::from_be_bytes(count);
    let mib = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
    println!("bulk bytes={bytes} gib_s={:.3}", f64::from(mib) / 1024.0 / start.elapsed().as_secs_f64());
    Ok(())
}
