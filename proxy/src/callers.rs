//! Which local service an application calls as, by the socket that it calls with.
//!
//! The kernel says whose a socket is: the user that made it ([`inet_diag`], for a Unix socket its credentials), and the
//! control group in which it was made, which is the systemd unit's ([`units`]). Both belong to the socket. A process id
//! would not do: between the question who has the socket and the question what that process is, the number may have become
//! another's.
//!
//! Where nothing fits, or two services fit, the call is the bare node's.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use starling_model::ServiceKey;
use tokio::sync::Semaphore;
use tracing::debug;

pub(crate) mod inet_diag;
pub(crate) mod units;

/// The processes that may call as a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// Those of this user.
    Uid(u32),
    /// Those of this systemd unit: `orders.service`.
    Unit(String),
    /// None: the user is unknown here, say.
    Nobody,
}

/// Whose a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    /// The id of its control group (v2), where the kernel tells it.
    pub(crate) cgroup: Option<u64>,
}

/// Who may call as what. Immutable; published with the local instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalCallers {
    by_service: BTreeMap<ServiceKey, Vec<Process>>,
    /// `None`: several services have it, so it tells nothing.
    by_uid: BTreeMap<u32, Option<ServiceKey>>,
    by_unit: BTreeMap<String, Option<ServiceKey>>,
}

impl LocalCallers {
    pub(crate) fn add(&mut self, service: &ServiceKey, process: Process) {
        fn claim<K: Ord>(held: &mut BTreeMap<K, Option<ServiceKey>>, key: K, service: &ServiceKey) {
            let entry = held.entry(key).or_insert_with(|| Some(service.clone()));
            if entry.as_ref() != Some(service) {
                *entry = None;
            }
        }
        match &process {
            Process::Uid(uid) => claim(&mut self.by_uid, *uid, service),
            Process::Unit(unit) => claim(&mut self.by_unit, unit.clone(), service),
            Process::Nobody => {}
        }
        self.by_service.entry(service.clone()).or_default().push(process);
    }

    /// True when a process of this user may call as the service by an entrance of its own; `None`: of nobody known.
    #[must_use]
    pub fn may_call_as(&self, service: &ServiceKey, uid: Option<u32>) -> bool {
        uid == Some(0) || self.source(Some(service), uid.map(|uid| Owner { uid, cgroup: None }), None).is_some()
    }

    /// True when it matters whose a socket is.
    pub(crate) fn ask_owner(&self) -> bool {
        !self.by_service.is_empty()
    }

    /// True when it matters of which unit it is.
    pub(crate) fn ask_unit(&self) -> bool {
        !self.by_unit.is_empty()
    }

    /// What a call counts as. `entrance` is the service whose identity the entrance carries; a service that names its
    /// processes is carried for these alone. Else a unit tells before a user, since it says more.
    pub(crate) fn source(
        &self,
        entrance: Option<&ServiceKey>,
        owner: Option<Owner>,
        unit: Option<&str>,
    ) -> Option<ServiceKey> {
        let fits = |process: &Process| match process {
            Process::Uid(uid) => owner.is_some_and(|owner| owner.uid == *uid),
            Process::Unit(named) => unit == Some(named.as_str()),
            Process::Nobody => false,
        };
        if let Some(service) = entrance {
            let named = self.by_service.get(service);
            return named.is_none_or(|processes| processes.iter().any(fits)).then(|| service.clone());
        }
        let by_unit = unit.and_then(|unit| self.by_unit.get(unit));
        let by_uid = || self.by_uid.get(&owner?.uid);
        by_unit.or_else(by_uid)?.clone()
    }
}

/// One data thread's means to ask the kernel.
#[derive(Debug)]
pub(crate) struct Asking {
    sockets: inet_diag::Asker,
    /// Control groups and the unit that each is in. An id is never given to another group. Groups in no unit are looked for
    /// again: not being found says little of one that is just made, or of a host with very many.
    known: RefCell<HashMap<u64, Arc<str>>>,
    searching: Semaphore,
}

impl Default for Asking {
    fn default() -> Self {
        Self { sockets: inet_diag::Asker::default(), known: RefCell::default(), searching: Semaphore::new(1) }
    }
}

impl Asking {
    /// The owner of the socket at the other end of an accepted connection.
    pub(crate) fn owner(&self, stream: &tokio::net::TcpStream) -> Option<Owner> {
        let (peer, local) = (stream.peer_addr().ok()?, stream.local_addr().ok()?);
        let asked = self.sockets.owner(peer, local);
        asked.inspect_err(|error| debug!(%error, "the kernel does not say whose a socket is")).ok().flatten()
    }

    /// The unit that a control group is in.
    pub(crate) async fn unit(&self, cgroup: u64) -> Option<Arc<str>> {
        self.unit_by(cgroup, units::of).await
    }

    async fn unit_by(&self, cgroup: u64, look: fn(u64) -> Option<String>) -> Option<Arc<str>> {
        let known = || self.known.borrow().get(&cgroup).cloned();
        if let Some(known) = known() {
            return Some(known);
        }
        // One search at a time: whoever is in no unit must not make one for each of a thousand connections at once.
        let _turn = self.searching.acquire().await.ok()?;
        if let Some(known) = known() {
            return Some(known);
        }
        let found = tokio::task::spawn_blocking(move || look(cgroup)).await.unwrap_or_default();
        let found: Arc<str> = Arc::from(found?);
        let mut known = self.known.borrow_mut();
        if known.len() >= units::KNOWN_MAX {
            known.clear();
        }
        known.insert(cgroup, Arc::clone(&found));
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use starling_model::Namespace;

    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey::parse(name, &Namespace::default()).unwrap()
    }

    fn callers(all: &[(&str, Process)]) -> LocalCallers {
        let mut callers = LocalCallers::default();
        all.iter().for_each(|(service, process)| callers.add(&key(service), process.clone()));
        callers
    }

    fn unit(name: &str) -> Process {
        Process::Unit(name.to_owned())
    }

    fn source(callers: &LocalCallers, entrance: Option<&str>, uid: Option<u32>, unit: Option<&str>) -> Option<String> {
        let owner = uid.map(|uid| Owner { uid, cgroup: None });
        callers.source(entrance.map(key).as_ref(), owner, unit).map(|service| service.name.to_string())
    }

    #[test]
    fn a_user_or_a_unit_tells_the_service_and_nothing_else_does() {
        let all = callers(&[("web", Process::Uid(7)), ("db", unit("db.service")), ("lost", Process::Nobody)]);
        let of = |uid, unit| source(&all, None, uid, unit);
        assert_eq!(of(Some(7), None).as_deref(), Some("web"));
        assert_eq!((of(Some(8), None), of(None, None), of(Some(0), Some("x.service"))), (None, None, None));
        assert_eq!(of(None, Some("db.service")).as_deref(), Some("db"));
        // A unit says more than a user.
        assert_eq!(of(Some(7), Some("db.service")).as_deref(), Some("db"));
        assert_eq!(source(&LocalCallers::default(), None, Some(7), None), None);
    }

    #[test]
    fn who_asks_on_behalf_of_a_service_is_its_user_or_root() {
        let all = callers(&[("web", Process::Uid(7)), ("db", unit("db.service"))]);
        for (service, uid, may) in [
            ("web", Some(7), true),
            ("web", Some(8), false),
            ("web", None, false),
            ("db", Some(7), false),
            ("db", Some(0), true),
            ("free", Some(8), true),
            ("free", None, true),
        ] {
            assert_eq!(all.may_call_as(&key(service), uid), may, "{service} {uid:?}");
        }
    }

    #[test]
    fn what_two_services_share_tells_nothing() {
        let all = callers(&[("web", Process::Uid(7)), ("shop", Process::Uid(7)), ("shop", Process::Uid(8))]);
        assert_eq!(source(&all, None, Some(7), None), None);
        assert_eq!(source(&all, None, Some(8), None).as_deref(), Some("shop"));
        let twice = callers(&[("web", Process::Uid(7)), ("web", Process::Uid(7))]);
        assert_eq!(source(&twice, None, Some(7), None).as_deref(), Some("web"), "two ports of one service");
    }

    #[test]
    fn an_entrance_carries_a_service_that_names_its_processes_for_these_alone() {
        let all = callers(&[("web", Process::Uid(7)), ("web", unit("web.service")), ("lost", Process::Nobody)]);
        let of = |entrance, uid, unit| source(&all, Some(entrance), uid, unit);
        assert_eq!(of("free", Some(1), None).as_deref(), Some("free"), "it names none");
        assert_eq!(of("web", Some(7), None).as_deref(), Some("web"));
        assert_eq!(of("web", Some(1), Some("web.service")).as_deref(), Some("web"));
        assert_eq!((of("web", Some(1), None), of("web", None, None), of("lost", Some(7), None)), (None, None, None));
    }

    #[tokio::test]
    async fn control_groups_that_are_known_are_bounded() {
        let asking = Asking::default();
        for id in 0..=units::KNOWN_MAX as u64 {
            assert_eq!(asking.unit_by(id, |_| Some("web.service".to_owned())).await.as_deref(), Some("web.service"));
        }
        assert_eq!(asking.known.borrow().len(), 1);
    }

    #[tokio::test]
    async fn a_unit_is_remembered_and_that_there_is_none_is_not() {
        let asking = Asking::default();
        assert_eq!(asking.unit_by(7, |_| None).await, None);
        let web = |_| Some("web.service".to_owned());
        assert_eq!(asking.unit_by(7, web).await.as_deref(), Some("web.service"), "it is looked for again");
        assert_eq!(asking.unit_by(7, |_| None).await.as_deref(), Some("web.service"));
    }
}
