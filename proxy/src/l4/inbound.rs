//! The owner's side of one tunnel: from a proven peer's stream to the local instance.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use starling_routing::Caller;
use starling_transport::data::{DataStream, ResetCode};
use tracing::debug;

use crate::answers::ErrorType;
use crate::detect::Sniff;
use crate::header::OpenHeader;
use crate::l4::copy::{Broken, Tunnel};
use crate::l4::outbound::Account;
use crate::l4::{Tunnelled as _, connect};
use crate::metrics::{Direction, Turned};
use crate::worker::{Side, Worker};

/// Serves one stream until it ends. Owns it; dropping this at any `.await` resets it and closes the instance's socket.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    mut stream: Sniff<DataStream>,
    header: &OpenHeader,
    caller: &Caller,
    address: SocketAddr,
) {
    let _active = worker.active(Side::Inbound);
    let edge = worker.edges.edge(Direction::Inbound, caller.service.as_ref(), Some(&header.destination));
    let mut record = worker.record(Direction::Inbound, || caller.clone(), || None);
    if let Some(record) = &mut record {
        record.reached(&worker.config.node, header);
    }
    let mut account = Account::open(&worker, edge, record);
    let mut instance = match connect(address).await {
        Ok(instance) => instance,
        Err(error) => {
            debug!(service = %header.destination, endpoint = %header.instance, %error, "a local instance cannot be reached");
            let timed_out = error.kind() == io::ErrorKind::TimedOut;
            account.error = Some(if timed_out { ErrorType::ConnectionTimeout } else { ErrorType::ConnectionRefused });
            stream.inner().reset(ResetCode::Refused);
            return;
        }
    };
    if let Err(error) = stream.inner_mut().accept().await {
        debug!(service = %header.destination, %error, "a peer left before its tunnel began");
        return instance.break_off();
    }
    let lane = stream.inner().lane_kind();
    match Tunnel::default().on(lane).run(&mut stream, &mut instance, &mut account).await {
        Ok(()) => {}
        Err(Broken::Client(_)) if stream.is_http() => {
            // Its agent would have carried it as that: this one wants to be around the hardening.
            debug!(service = %header.destination, "a peer sent requests as bytes");
            worker.shared.metrics.turned_away(Turned::Carry);
            stream.inner().reset(ResetCode::Error);
            instance.break_off();
        }
        Err(Broken::Client(error)) => {
            debug!(service = %header.destination, %error, "a peer broke its tunnel off");
            instance.break_off();
        }
        Err(Broken::Server(error)) => {
            debug!(service = %header.destination, endpoint = %header.instance, %error, "an instance broke a tunnel off");
            account.error = Some(ErrorType::ConnectionTerminated);
            stream.inner().reset(ResetCode::Error);
        }
    }
}
