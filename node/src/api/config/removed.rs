//! Endpoints that documents or their end would take out of use, and services that these would open, each with the document
//! that does it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use starling_config::documents::{Document, Spec};
use starling_model::{DocumentKey, NodeName, ServiceKey};
use starling_routing::{InUse, Removed, RouteTable, Standing};

use crate::api::views::{OpenedService, REMOVED_LISTED_MAX, RemovedEndpoints};

/// What of `before` would be gone in `after`, which these documents and deletions make of it.
pub(super) fn of(
    before: &RouteTable,
    after: &RouteTable,
    documents: &[Document],
    deleted: &[DocumentKey],
) -> Vec<RemovedEndpoints> {
    let mut by_service: BTreeMap<ServiceKey, Vec<Removed>> = BTreeMap::new();
    for one in before.removed_in(after) {
        by_service.entry(one.service.clone()).or_default().push(one);
    }
    by_service
        .into_iter()
        .filter_map(|(service, removed)| one(before, (documents, deleted), &service, &removed))
        .collect()
}

/// Services that grants name in `before` and none does in `after`, where that opens them.
pub(super) fn opened(
    before: &RouteTable,
    after: &RouteTable,
    documents: &[Document],
    deleted: &[DocumentKey],
) -> Vec<OpenedService> {
    let one = |(service, nodes): (ServiceKey, Vec<NodeName>)| {
        let document = cause(before, (documents, deleted), &service)?;
        Some(OpenedService {
            document_kind: document.kind.to_string(),
            document_namespace: document.namespace.to_string(),
            document_name: document.name.to_string(),
            namespace: service.namespace.to_string(),
            service: service.name.to_string(),
            nodes: nodes.iter().take(REMOVED_LISTED_MAX).map(ToString::to_string).collect(),
            count: nodes.len() as u64,
        })
    };
    before.opened_in(after).into_iter().filter_map(one).collect()
}

fn one(
    before: &RouteTable,
    documents: (&[Document], &[DocumentKey]),
    service: &ServiceKey,
    removed: &[Removed],
) -> Option<RemovedEndpoints> {
    let document = cause(before, documents, service)?;
    let nodes: BTreeSet<&str> = removed.iter().map(|one| one.endpoint.node.as_str()).collect();
    let shown: Vec<&str> = nodes.iter().copied().take(REMOVED_LISTED_MAX).collect();
    let more =
        if nodes.len() > shown.len() { format!(" and {} more", nodes.len() - shown.len()) } else { String::new() };
    let why = match removed.first()?.standing {
        Standing::NotGranted if is_named(before, service) => "no longer granted",
        Standing::Granted | Standing::Unnamed | Standing::NotGranted => "not granted",
        Standing::NoGrant => "without a grant",
        Standing::HeldBack => "held back",
        Standing::NotKnown => "not known to be granted",
    };
    Some(RemovedEndpoints {
        document_kind: document.kind.to_string(),
        document_namespace: document.namespace.to_string(),
        document_name: document.name.to_string(),
        namespace: service.namespace.to_string(),
        service: service.name.to_string(),
        endpoints: removed.iter().take(REMOVED_LISTED_MAX).map(|one| one.endpoint.to_string()).collect(),
        count: removed.len() as u64,
        detail: format!("{}{more} {why}", shown.join(", ")),
    })
}

/// The first document that names the service, or named it until now; else the one that makes the mesh strict. An instance
/// that is found under another name may go because of the name that it announces: then the first grant stands for it. Of
/// deletions likewise, where no document is.
fn cause<'a>(
    before: &RouteTable,
    (documents, deleted): (&'a [Document], &'a [DocumentKey]),
    service: &ServiceKey,
) -> Option<&'a DocumentKey> {
    let names = |spec: &Spec| matches!(spec, Spec::ServiceGrant(grant) if grant.services.contains(service));
    let held = |key: &DocumentKey| before.documents().get(key).is_some_and(|held| names(&held.document.spec));
    let naming = documents.iter().find(|one| names(&one.spec) || held(&one.key));
    let of_kind = |kind: fn(&Spec) -> bool| documents.iter().find(|one| kind(&one.spec));
    let strict = || of_kind(|spec| matches!(spec, Spec::MeshConfig(_)));
    let grant = || of_kind(|spec| matches!(spec, Spec::ServiceGrant(_)));
    let ended = || deleted.iter().find(|key| held(key));
    let ends = |kind: &str| deleted.iter().find(|key| key.kind.as_str() == kind);
    let of_deleted = || ended().or_else(|| ends("MeshConfig")).or_else(|| ends("ServiceGrant"));
    naming.or_else(strict).or_else(grant).map(|document| &document.key).or_else(of_deleted)
}

fn is_named(table: &RouteTable, service: &ServiceKey) -> bool {
    let names =
        |one: &InUse| matches!(&one.document.spec, Spec::ServiceGrant(grant) if grant.services.contains(service));
    table.documents().iter().any(names)
}

#[cfg(test)]
mod tests {
    use starling_model::{
        Announcement, Digest, DocumentVersion, Generation, HealthRecord, InstanceName, KeyId, Labels, MemberState,
        Namespace, PortName, Protocol, ServicesRecord, Weight,
    };
    use starling_routing::{Documents, MemberFact, Registry, TableSettings, compile};

    use super::*;

    fn grant(name: &str, node: &str, service: &str) -> String {
        format!(
            "---\napiVersion: starling/v1\nkind: ServiceGrant\nmetadata: {{name: {name}}}\nspec: {{nodes: [{{node: \"{node}\"}}], services: [{{service: {service}}}]}}\n"
        )
    }

    /// `orders` on vm-1, vm-2 and vm-3, with these documents in use.
    fn table(yaml: &str) -> RouteTable {
        let version = DocumentVersion { generation: Generation::FIRST, signer: KeyId(1), hash: Digest([1; 32]) };
        let mut registry = Registry::new();
        for name in ["vm-1", "vm-2", "vm-3"] {
            let node = NodeName::new(name).unwrap();
            registry.member(&MemberFact { node: node.clone(), state: MemberState::Alive, address: None });
            let announcement = Announcement {
                instance: InstanceName::new("o").unwrap(),
                service: ServiceKey::parse("orders", &Namespace::default()).unwrap(),
                port: PortName::new("http").unwrap(),
                protocol: Protocol::Http,
                labels: Labels::default(),
                weight: Weight::default(),
            };
            registry.services(&node, &ServicesRecord { instances: vec![announcement] });
            registry.health(&node, &HealthRecord::default());
        }
        let documents = Documents::new(InUse::read("a.yaml", yaml, version, "k1").unwrap());
        compile(&documents, &registry, &TableSettings { domain: "mesh.internal".to_owned() }, None)
    }

    fn check(before: &str, input: &str, want: &[&str]) {
        check_without(before, input, &[], want);
    }

    fn check_without(before: &str, input: &str, deleted: &[(&str, &str)], want: &[&str]) {
        let before = table(before);
        let documents =
            if input.is_empty() { Vec::new() } else { starling_config::documents::parse("b.yaml", input).unwrap() };
        let deleted: Vec<DocumentKey> =
            deleted.iter().map(|(kind, name)| DocumentKey::parse(kind, "default", name).unwrap()).collect();
        let without = deleted.iter().cloned().collect();
        let after = before.changed(documents.clone(), without, std::time::Instant::now()).unwrap();
        let line = |one: RemovedEndpoints| {
            let RemovedEndpoints { document_kind, document_name, service, endpoints, count, detail, .. } = one;
            format!("{document_kind}/{document_name} {service} {count} {} ({detail})", endpoints.join(" "))
        };
        let opened_line = |one: OpenedService| {
            let OpenedService { document_kind, document_name, service, nodes, count, .. } = one;
            format!("{document_kind}/{document_name} opens {service} {count} {}", nodes.join(" "))
        };
        let told = of(&before, &after, &documents, &deleted).into_iter().map(line);
        let opened = opened(&before, &after, &documents, &deleted).into_iter().map(opened_line);
        assert_eq!(told.chain(opened).collect::<Vec<_>>(), want);
    }

    #[test]
    fn the_end_of_a_grant_says_what_it_removes_and_what_it_opens() {
        let (one, two) = (grant("g", "vm-1", "orders"), grant("h", "vm-2", "orders"));
        let of = |name| [("ServiceGrant", name)];
        // The last one that names the service: whoever announces it serves it from then on.
        check_without(&one, "", &of("g"), &["ServiceGrant/g opens orders 2 vm-2 vm-3"]);
        check_without(&grant("g", "vm-*", "orders"), "", &of("g"), &["ServiceGrant/g opens orders 0 "]);
        // Another one still does.
        let removed = "ServiceGrant/h orders 1 vm-2/default/o (vm-2 no longer granted)";
        check_without(&(one.clone() + &two), "", &of("h"), &[removed]);
        let strict =
            "---\napiVersion: starling/v1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {serviceGrants: Strict}\n";
        let removed = "ServiceGrant/g orders 1 vm-1/default/o (vm-1 without a grant)";
        check_without(&(one.clone() + strict), "", &of("g"), &[removed]);
        // The end of what makes the mesh strict opens what no grant named; that is no grant's end.
        check_without(strict, "", &[("MeshConfig", "mesh")], &[]);
        // A grant that names another service from now on.
        check(&one, &grant("g", "vm-1", "web"), &["ServiceGrant/g opens orders 2 vm-2 vm-3"]);
    }

    #[test]
    fn each_is_told_with_the_document_that_does_it_and_why() {
        let all = grant("g", "vm-*", "orders");
        let gone = "orders 2 vm-2/default/o vm-3/default/o (vm-2, vm-3 no longer granted)";
        check(&all, &grant("g", "vm-1", "orders"), &[&format!("ServiceGrant/g {gone}")]);
        check(
            "",
            &grant("g", "vm-1", "orders"),
            &["ServiceGrant/g orders 2 vm-2/default/o vm-3/default/o (vm-2, vm-3 not granted)"],
        );
        check(&all, &grant("h", "vm-1", "orders"), &[]);
        check("", &grant("h", "vm-1", "web"), &[]);
        // The grant goes over to another service: the mesh being strict, nobody has the first one.
        let strict =
            "---\napiVersion: starling/v1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {serviceGrants: Strict}\n";
        let three = "orders 3 vm-1/default/o vm-2/default/o vm-3/default/o (vm-1, vm-2, vm-3 without a grant)";
        check(&(all + strict), &grant("g", "vm-*", "web"), &[&format!("ServiceGrant/g {three}")]);
        check("", strict, &[&format!("MeshConfig/mesh {three}")]);
        check("", &(grant("x", "vm-1", "web") + strict), &[&format!("MeshConfig/mesh {three}")]);
    }
}
