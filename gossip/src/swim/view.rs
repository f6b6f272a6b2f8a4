//! What others may know of the machine, at little cost or in whole.

use std::net::SocketAddr;
use std::sync::Arc;

use starling_model::{Life, MemberState, NodeName};

use super::{PROTOCOL, Phase, Swim};
use crate::action::{MemberView, SuspicionView};
use crate::announced::Pool;
use crate::members::Member;

impl Swim {
    /// This machine holds what others say in memory that it shares with the other machines of `pool`.
    #[must_use]
    pub fn sharing(mut self, pool: &Pool) -> Self {
        self.pool = Some(pool.clone());
        self
    }

    /// This machine has no store: it never asks to keep anything, and writes nothing down for that.
    #[must_use]
    pub fn without_store(mut self) -> Self {
        self.storeless = true;
        self
    }

    /// State and life of all other members: the part of [`Swim::members`] that costs nothing.
    pub fn standings(&self) -> impl Iterator<Item = (&NodeName, MemberState, Life)> + '_ {
        self.members.iter().map(|(name, member)| (name, member.state, member.life()))
    }

    /// State and life of this node.
    #[must_use]
    pub fn standing(&self) -> (MemberState, Life) {
        let state = match self.phase {
            Phase::Idle | Phase::Joined | Phase::Out => MemberState::Alive,
            Phase::Leaving | Phase::Left => MemberState::Left,
        };
        (state, self.life)
    }

    /// All other members, tombstones included, and connected peers that have not proved their life yet; in no order.
    pub fn members(&self) -> impl Iterator<Item = MemberView> + '_ {
        let joining = self.links.iter().filter(|(name, _)| self.members.get(name).is_none());
        let joining = joining.map(|(name, link)| MemberView {
            name: name.clone(),
            state: MemberState::Joining,
            life: Life::default(),
            addresses: vec![link.address],
            rtt: link.rtt,
            jitter: None,
            documents_root: None,
            since: link.since,
            last_seen: None,
            release: String::new(),
            region: String::new(),
            protocol: (0, 0),
            services: None,
            status: None,
            suspicion: None,
            connected: true,
        });
        self.members.iter().map(|(name, member)| self.view_of(name, member)).chain(joining)
    }

    /// Where a member is reached, in its order of preference; empty for one that is not known.
    #[must_use]
    pub fn addresses_of(&self, name: &NodeName) -> Vec<SocketAddr> {
        self.members.get(name).map(Member::addresses).unwrap_or_default()
    }

    /// This node, in the same form.
    #[must_use]
    pub fn me(&self) -> MemberView {
        MemberView {
            name: self.me.name.clone(),
            state: match self.phase {
                Phase::Idle | Phase::Joined | Phase::Out => MemberState::Alive,
                Phase::Leaving | Phase::Left => MemberState::Left,
            },
            life: self.life,
            addresses: self.me.addresses.clone(),
            rtt: None,
            jitter: None,
            documents_root: Some(self.roots().documents),
            since: self.started,
            last_seen: None,
            release: self.me.release.clone(),
            region: self.me.region.clone(),
            protocol: PROTOCOL,
            services: self.records.services(&self.me.name).map(Arc::new),
            status: self.records.status(&self.me.name),
            suspicion: None,
            connected: true,
        }
    }

    pub(super) fn view_of(&self, name: &NodeName, member: &Member) -> MemberView {
        let contact = member.contact();
        let said = member.announced().attributes();
        let (release, region, protocol) = said
            .as_ref()
            .map(|said| (said.release.to_owned(), said.region.to_owned(), said.protocol))
            .unwrap_or_default();
        let addresses = member.addresses_of(said.map(|said| said.addresses));
        MemberView {
            name: name.clone(),
            state: member.state,
            life: member.life(),
            addresses,
            // Before the first probe the transport's own figure has to do.
            rtt: contact.rtt.smoothed().or_else(|| self.links.get(name).and_then(|link| link.rtt)),
            jitter: contact.rtt.variation(),
            // Without a link nobody tells us when it changes.
            documents_root: contact.roots.filter(|_| self.links.is_up(name)).map(|roots| roots.documents),
            since: member.since,
            last_seen: contact.last_seen,
            release,
            region,
            protocol,
            services: self.records.services(name).map(Arc::new),
            status: self.records.status(name),
            suspicion: contact.suspicion.as_ref().map(|suspicion| SuspicionView {
                accusers: suspicion.accusers.clone(),
                deadline: suspicion.deadline(),
            }),
            connected: self.links.is_up(name),
        }
    }
}
