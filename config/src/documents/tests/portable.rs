//! The Gateway API project's own types read every route that is accepted under its apiVersion.

use gateway_api::apis::{experimental, standard};
use serde::de::DeserializeOwned;

use super::{SAMPLES, all};
use crate::documents::{ApiVersion, Document, Spec};

fn read<T: DeserializeOwned>(document: &Document) {
    let read: Result<T, _> = serde_saphyr::from_str(&document.text);
    if let Err(error) = read {
        panic!("{}: {error}", document.key);
    }
}

#[test]
fn the_project_s_own_types_read_what_we_accept() {
    let mut kinds = Vec::new();
    for (_, text) in SAMPLES {
        for document in all(text).iter().filter(|document| document.version == ApiVersion::Gateway) {
            match &document.spec {
                Spec::HttpRoute(_) => {
                    read::<standard::httproutes::HttpRoute>(document);
                    read::<experimental::httproutes::HttpRoute>(document);
                }
                Spec::GrpcRoute(_) => {
                    read::<standard::grpcroutes::GrpcRoute>(document);
                    read::<experimental::grpcroutes::GrpcRoute>(document);
                }
                Spec::TcpRoute(_) => read::<experimental::tcproutes::TcpRoute>(document),
                Spec::TlsRoute(_) => read::<standard::tlsroutes::TlsRoute>(document),
                Spec::CoreService(_)
                | Spec::StarlingService(_)
                | Spec::BackendTrafficPolicy(_)
                | Spec::ServiceGrant(_)
                | Spec::MeshConfig(_)
                | Spec::Gateway(_)
                | Spec::Unread => panic!("{} is no route", document.key),
            }
            kinds.push(document.key.kind.to_string());
        }
    }
    assert_eq!(kinds, ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"]);
}
