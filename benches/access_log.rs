//! What the access log costs a request on its data thread, and a line on the writer's.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use criterion::{Criterion, criterion_group, criterion_main};
use fixtures::service_key;
use http::Request;
use starling_model::{Digest, EndpointId, NodeName, TrustDomain};
use starling_proxy::access_log::format::{Format, Formatter, Times};
use starling_proxy::access_log::{HttpRecord, Only, Record};
use starling_proxy::http::grpc::Spoken;
use starling_proxy::{AccessLog, AccessLogFigures, Direction};
use starling_routing::Caller;

fn request() -> Request<()> {
    let request = Request::get("/v1/customers/4711/orders?page=2&token=x")
        .header("host", "orders.mesh.internal")
        .header("user-agent", "curl/8.5.0")
        .header("accept", "*/*")
        .header("x-request-id", "0f8fad5b-d9cb-469f-a165-70867728950e")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    request.body(()).expect("a request")
}

/// What a request adds on its way.
fn passed(record: &mut Record, endpoint: &EndpointId) {
    (record.destination, record.endpoint) = (Some(service_key(1)), Some(endpoint.clone()));
    (record.tries, record.received) = (1, 812);
    if let Some(http) = &mut record.http {
        http.status = 200;
    }
}

fn access_log(c: &mut Criterion) {
    let caller = Caller { node: NodeName::new("vm-1").expect("a label"), service: Some(service_key(0)) };
    let endpoint = EndpointId {
        node: "vm-2".parse().expect("a label"),
        namespace: "default".parse().expect("a label"),
        instance: "orders-1".parse().expect("a label"),
    };
    let request = request();
    let begun = || {
        let http = HttpRecord::of(&request, Spoken::Http1);
        Record::new(Direction::Outbound, caller.clone(), Digest([7; 32]), Some(http))
    };
    let shares = [("errors_none_told", Only::Errors), ("all", Only::All), ("sample_1_of_100", Only::Sample(10_000))];
    for (name, only) in shares {
        let (log, records) = AccessLog::new(only, Arc::<AccessLogFigures>::default());
        let drained = thread::spawn(move || records.into_iter().count());
        let mut draw = 0_u64;
        c.bench_function(&format!("access_log/request/{name}"), |b| {
            b.iter(|| {
                draw = draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
                if let Some(mut record) = log.begin(|| draw, begun) {
                    passed(&mut record, &endpoint);
                    log.end(black_box(record));
                }
            });
        });
        drop(log);
        drained.join().expect("the reader ends with the log");
    }
    let mut record = begun();
    passed(&mut record, &endpoint);
    record.at = SystemTime::now();
    for (name, format) in [("json", Format::Json), ("common", Format::Common), ("envoy", Format::Envoy)] {
        let node = NodeName::new("vm-1").expect("a label");
        let formatter = Formatter { format, node, trust_domain: TrustDomain::new("prod.internal").expect("a name") };
        let times = Times { rfc3339: "2026-11-22T15:31:59.124Z", common: "22/Nov/2026:15:31:59 +0000" };
        let mut line = String::new();
        c.bench_function(&format!("access_log/line/{name}"), |b| {
            b.iter(|| {
                line.clear();
                formatter.write(black_box(&record), times, &mut line);
                black_box(line.len())
            });
        });
    }
}

criterion_group!(benches, access_log);
criterion_main!(benches);
