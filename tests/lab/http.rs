//! A small blocking HTTP/1.1 client and backend, so that tests see every byte and no library's retries.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A kept-alive connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub(crate) fn get(&mut self, host: &str, path: &str) -> std::io::Result<Answer> {
        self.raw(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())
    }

    pub(crate) fn raw(&mut self, request: &[u8]) -> std::io::Result<Answer> {
        self.stream.get_mut().write_all(request)?;
        self.answer()
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn answer(&mut self) -> std::io::Result<Answer> {
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let find = |name: &str| headers.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone());
        let mut body = Vec::new();
        if find("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
            loop {
                let size = usize::from_str_radix(self.line()?.split(';').next().unwrap_or("0"), 16).unwrap_or(0);
                let mut chunk = vec![0; size];
                self.stream.read_exact(&mut chunk)?;
                self.line()?;
                if size == 0 {
                    break;
                }
                body.extend(chunk);
            }
        } else if let Some(length) = find("content-length").and_then(|v| v.parse().ok()) {
            body = vec![0; length];
            self.stream.read_exact(&mut body)?;
        }
        Ok(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
    }
}

/// One request on a connection of its own.
pub(crate) fn get(address: SocketAddr, host: &str, path: &str) -> std::io::Result<Answer> {
    Client::connect(address)?.get(host, path)
}

/// A backend that answers every request with its name, in a thread per connection; stops accepting when dropped.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    pub(crate) served: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Backend {
    pub(crate) fn start(address: &str, name: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (served, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ended, name) = (served.clone(), stop.clone(), name.to_owned());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (name, count) = (name.clone(), count.clone());
                thread::spawn(move || serve(&stream, &name, &count));
            }
        });
        Self { address, served, stop }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: &TcpStream, name: &str, count: &AtomicU64) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line == "\r\n" => break,
                Ok(_) => head.push(line.trim_end().to_owned()),
            }
        }
        let length: usize = head
            .iter()
            .filter_map(|l| l.split_once(':'))
            .find(|(k, _)| k.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, v)| v.trim().parse().ok())
            .unwrap_or(0);
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let path = head.first().and_then(|l| l.split(' ').nth(1)).unwrap_or("/").to_owned();
        if path == "/hang" {
            thread::sleep(Duration::from_secs(40));
            return;
        }
        count.fetch_add(1, Ordering::Relaxed);
        let text = format!("{name}\n{}\n", head.join("\n"));
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// What a load run saw.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// (moment since start, status; 0 is a broken connection), in order of completion within each client.
    pub(crate) samples: Vec<(Duration, u16)>,
}

impl Report {
    pub(crate) fn failures(&self) -> Vec<(Duration, u16)> {
        self.samples.iter().copied().filter(|(_, status)| *status != 200).collect()
    }
}

/// `clients` kept-alive clients, each sending a request every `pause`, until `stop`.
pub(crate) struct Load {
    threads: Vec<thread::JoinHandle<Vec<(Duration, u16)>>>,
    stop: Arc<AtomicBool>,
    pub(crate) started: Instant,
}

impl Load {
    pub(crate) fn start(address: SocketAddr, host: &str, clients: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let started = Instant::now();
        let threads = (0..clients)
            .map(|_| {
                let (stop, host) = (stop.clone(), host.to_owned());
                thread::spawn(move || {
                    let mut samples = Vec::new();
                    let mut client = None;
                    while !stop.load(Ordering::Relaxed) {
                        if client.is_none() {
                            client = Client::connect(address).ok();
                        }
                        let status = match client.as_mut().map(|c| c.get(&host, "/")) {
                            Some(Ok(answer)) => answer.status,
                            Some(Err(_)) | None => {
                                client = None;
                                0
                            }
                        };
                        samples.push((started.elapsed(), status));
                        thread::sleep(pause);
                    }
                    samples
                })
            })
            .collect();
        Self { threads, stop, started }
    }

    pub(crate) fn finish(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        Report { samples: self.threads.into_iter().flat_map(|t| t.join().unwrap()).collect() }
    }
}
