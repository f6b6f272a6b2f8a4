//! Where lines end up, and what becomes of those that find no place.

use std::fs;

use starling_model::{Digest, NodeName, TrustDomain};
use starling_proxy::Direction;
use starling_proxy::access_log::format::Format;
use starling_routing::Caller;

use super::*;

fn record(received: u64) -> Box<Record> {
    let caller = Caller { node: NodeName::new("vm-1").unwrap(), service: None };
    let mut record = Record::new(Direction::Outbound, caller, Digest::default(), None);
    record.received = received;
    Box::new(record)
}

fn formatter(format: Format) -> Formatter {
    let (node, trust_domain) = (NodeName::new("vm-1").unwrap(), TrustDomain::new("prod.internal").unwrap());
    Formatter { format, node, trust_domain }
}

struct Bench {
    records: Option<SyncSender<Box<Record>>>,
    writer: AccessWriter,
    figures: Arc<AccessLogFigures>,
}

impl Bench {
    fn start(to: Destination) -> Self {
        let (records, inbox) = sync_channel(64);
        let figures: Arc<AccessLogFigures> = Arc::default();
        let (anew, (ending, ended)) = (Arc::new(AtomicBool::new(false)), sync_channel(1));
        let log = Log::new(to, formatter(Format::Common), Arc::clone(&figures), Arc::clone(&anew));
        thread::spawn(move || log.run(&inbox, &ending));
        Self { records: Some(records), writer: AccessWriter { anew, ended }, figures }
    }

    fn tell(&self, received: u64) {
        self.records.as_ref().unwrap().send(record(received)).unwrap();
    }

    fn figures(&self) -> (u64, u64) {
        (self.figures.written.load(Ordering::Relaxed), self.figures.failed.load(Ordering::Relaxed))
    }

    fn until(&self, want: (u64, u64)) {
        for _ in 0..500 {
            if self.figures() == want {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("{:?} is not {want:?}", self.figures());
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_file_is_appended_to_opened_anew_when_asked_and_whole_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    fs::write(&path, "before\n").unwrap();
    let mut bench = Bench::start(Destination::File(path.clone()));
    bench.tell(1);
    bench.until((1, 0));
    // logrotate: the file goes away under us, and lines follow it until we are told.
    let rotated = folder.path().join("access.log.1");
    fs::rename(&path, &rotated).unwrap();
    bench.tell(2);
    bench.until((2, 0));
    bench.writer.reopen();
    bench.tell(3);
    bench.until((3, 0));
    bench.tell(4);
    drop(bench.records.take());
    bench.writer.finish();
    assert_eq!(bench.figures(), (4, 0), "the last line is written before the end");
    let ends = |path: &Path| {
        lines(path).iter().map(|line| line.split(' ').next_back().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (ends(&rotated), ends(&path)),
        (vec!["before".into(), "1".into(), "2".into()], vec!["3".into(), "4".into()])
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o137, 0, "{mode:o}: nobody else reads it");
}

#[test]
fn what_cannot_be_written_is_counted_and_the_next_line_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none/access.log");
    let bench = Bench::start(Destination::File(missing.clone()));
    bench.tell(1);
    bench.until((0, 1));
    fs::create_dir(folder.path().join("none")).unwrap();
    bench.writer.reopen();
    bench.tell(2);
    bench.until((1, 1));
    assert_eq!(lines(&missing).len(), 1);
    // A full disk.
    let full = Bench::start(Destination::File("/dev/full".into()));
    full.tell(1);
    full.until((0, 1));
    let mut log = Log::new(Destination::File(missing.clone()), formatter(Format::Json), Arc::default(), Arc::default());
    log.torn = true;
    log.write(&[record(3)]);
    let told = lines(&missing);
    assert_eq!((told.len(), told[1].as_str()), (3, ""), "what was torn ends here: {told:?}");
    assert!(told[2].starts_with('{') && told[2].ends_with('}'));
}

#[test]
fn the_journal_takes_each_line_as_a_message_and_may_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let bench = Bench::start(Destination::Journal(path.clone()));
    bench.tell(1);
    bench.until((0, 1));
    let journal = UnixDatagram::bind(&path).unwrap();
    thread::sleep(TRY_AGAIN);
    bench.tell(2);
    let mut message = [0; 4_096];
    let len = journal.recv(&mut message).unwrap();
    let message = std::str::from_utf8(&message[..len]).unwrap();
    let want = "SYSLOG_IDENTIFIER=starling-access\nPRIORITY=6\nMESSAGE=vm-1 - - [";
    assert!(message.starts_with(want) && message.ends_with("\"- - TCP\" - 2\n"), "{message}");
    bench.until((1, 1));
}
