//! A connection from outside the mesh, at a listener of a Gateway: the server name leads to a service, and every byte goes
//! there as it came. TLS ends at the instance, so nothing here holds a key of it.

use std::num::NonZeroU16;
use std::rc::Rc;
use std::time::Instant;

use starling_routing::{Caller, Decision, Destination, Draws, Refusal, RequestFacts, Rule, UnixSeconds};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tracing::debug;

use crate::answers::ErrorType;
use crate::http::h2::Rewound;
use crate::http::outbound::error_of;
use crate::l4::Tunnelled as _;
use crate::l4::hello::{self, Hello, NoHello};
use crate::l4::outbound::{self, Account, Towards};
use crate::metrics::{Direction, Turned};
use crate::worker::Worker;

/// A fatal alert, `unrecognized_name` (RFC 6066, 3), in a record of TLS 1.2 as all versions write it.
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 112];

/// Serves one connection until it ends. Dropping this at any `.await` closes the far side.
pub(crate) async fn serve(worker: Rc<Worker>, mut stream: TcpStream, port: NonZeroU16) {
    let began = Instant::now();
    let Hello { name, read } = match hello::read(&mut stream).await {
        Ok(hello) => hello,
        Err(why) => {
            let (turned, error) = match why {
                NoHello::Gone => (Turned::Hello, ErrorType::ConnectionTerminated),
                NoHello::TimedOut => (Turned::HelloTimeout, ErrorType::ConnectionReadTimeout),
                NoHello::NotTls => (Turned::Hello, ErrorType::TlsProtocolError),
            };
            refused(&worker, began, (turned, error), (None, None));
            return;
        }
    };
    let draws = worker.draws();
    let name = name.as_deref();
    let destination = Destination::Gateway { port, name };
    let decision = foresee(&worker, destination, draws);
    let (why, rule) = match decision {
        Decision::Forward(choice) => {
            let towards =
                Towards { destination, port: None, source: None, labelled: Some(&choice.service.key), name, draws };
            let mut stream = Rewound::new(read, stream);
            return outbound::carry(worker, &mut stream, towards).await;
        }
        Decision::Refuse { why, rule } => (why, rule),
        // No filter of requests stands in a route of connections.
        Decision::Answer(answer) => (Refusal::NoBackend, Some(answer.rule)),
    };
    debug!(reason = why.proxy_error(), "a connection at a Gateway leads nowhere");
    let nameless = matches!(why, Refusal::NoListener | Refusal::NoRule);
    let turned = if nameless { Turned::ServerName } else { Turned::Backend };
    refused(&worker, began, (turned, error_of(why)), (name, rule));
    if nameless {
        // The client learns why; that it may be gone is its own affair.
        let _ = stream.write_all(&UNRECOGNIZED_NAME).await;
        let _ = stream.shutdown().await;
    } else {
        stream.break_off();
    }
}

fn foresee(worker: &Worker, destination: Destination<'_>, draws: Draws) -> Decision {
    let facts = RequestFacts {
        destination,
        port: None,
        source: None,
        http: None,
        avoid: &[],
        node: Some(&worker.config.node),
        wall: UnixSeconds::default(),
    };
    worker.foresee(&facts, Instant::now(), draws)
}

/// Counts and tells a connection that goes nowhere.
fn refused(
    worker: &Rc<Worker>,
    began: Instant,
    (turned, error): (Turned, ErrorType),
    (name, rule): (Option<&str>, Option<std::sync::Arc<Rule>>),
) {
    worker.shared.metrics.turned_away(turned);
    let caller = || Caller { node: worker.config.node.clone(), service: None };
    let mut record = worker.record(Direction::Outbound, caller, || None);
    if let Some(record) = &mut record {
        record.server_name = name.map(Box::from);
        record.rule = rule;
    }
    let edge = worker.edges.edge(Direction::Outbound, None, None);
    let mut account = Account::since(worker, edge, record, began);
    account.error = Some(error);
}
