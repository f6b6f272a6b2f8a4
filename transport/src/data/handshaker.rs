//! Where the handshakes of connections that we dial are done.

use std::future::Future;

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::tcp::Tls;
use crate::error::{DialError, of_io};

/// Who does the handshakes of a data thread that dials. One is half a millisecond of arithmetic: on the thread itself, all
/// requests of that thread would wait for it.
#[derive(Clone, Debug, Default)]
pub struct Handshaker {
    runtime: Option<Handle>,
}

impl Handshaker {
    /// Whoever opens connections.
    #[must_use]
    pub const fn here() -> Self {
        Self { runtime: None }
    }

    /// A runtime apart, which must have IO and time enabled. When it ends, handshakes fail.
    #[must_use]
    pub const fn on(runtime: Handle) -> Self {
        Self { runtime: Some(runtime) }
    }

    /// Shakes hands, and brings the connection to the thread that asked. Dropping the future gives the handshake up.
    pub(super) async fn shake(
        &self,
        shaking: impl Future<Output = Result<Tls, DialError>> + Send + 'static,
    ) -> Result<Tls, DialError> {
        let Some(runtime) = &self.runtime else { return shaking.await };
        let home = Handle::current();
        let shaken = runtime.spawn(async move {
            let mut stream = shaking.await?;
            stream.get_mut().0.move_to(&home).map_err(|error| of_io(&error))?;
            Ok(stream)
        });
        AbortOnDropHandle::new(shaken).await.map_err(|_| DialError::NotDialled("the handshake was given up"))?
    }
}
