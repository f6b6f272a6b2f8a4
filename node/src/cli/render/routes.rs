//! `starling routes`: the route table in use, row by row in the order in which rows are tried.

use crate::api::views::{DocumentProblem, RouteBackend, RouteRow, RouteTable};
use crate::cli::figures;
use crate::cli::look::{Look, Tone};
use crate::cli::render::{Columns, several_namespaces, short_key};
use crate::cli::table::{Align, Cell, Table};

/// The whole table; a column names the service where there is more than one.
pub(crate) fn render(table: &RouteTable, columns: Columns, namespace: Option<&str>, look: &Look) -> String {
    use Align::{Left, Right};
    let rows: Vec<&RouteRow> =
        table.body.items.iter().filter(|row| namespace.is_none_or(|name| row.service.namespace == name)).collect();
    let wide = columns == Columns::Wide;
    let namespaces = wide || several_namespaces(rows.iter().map(|row| row.service.namespace.as_str()));
    let services = namespaces || several_namespaces(rows.iter().map(|row| row.service.name.as_str()));
    let mut titles = Vec::new();
    if namespaces {
        titles.push(("NAMESPACE", Left));
    }
    if services {
        titles.push(("SERVICE", Left));
    }
    let ports = rows.iter().any(|row| row.port.is_some());
    let callers = rows.iter().any(|row| row.callers.is_some());
    if ports {
        titles.push(("PORT", Left));
    }
    if callers {
        titles.push(("CALLERS", Left));
    }
    titles.extend([
        ("ORDER", Right),
        ("ROUTE", Left),
        ("RULE", Left),
        ("MATCH", Left),
        ("BACKENDS", Left),
        ("TIMEOUT", Right),
        ("RETRIES", Right),
        ("SOURCE", Left),
    ]);
    if wide {
        titles.push(("FILTERS", Left));
    }
    let mut out = Table::new(titles);
    for row in rows {
        let mut cells = Vec::new();
        if namespaces {
            cells.push(Cell::new(&row.service.namespace));
        }
        if services {
            cells.push(Cell::new(&row.service.name));
        }
        if ports {
            cells.push(Cell::maybe(row.port.as_deref()));
        }
        if callers {
            cells.push(Cell::new(row.callers.as_deref().unwrap_or("all")));
        }
        cells.extend([
            Cell::new(row.order.to_string()),
            Cell::new(row.route.as_deref().unwrap_or("(default)")),
            Cell::maybe(row.rule.as_deref()),
            Cell::new(&row.matches),
            Cell::new(leads_to(row)),
            Cell::new(&row.timeout),
            Cell::new(row.retries.to_string()),
            Cell::new(source(row)),
        ]);
        if wide {
            cells.push(Cell::new(if row.filters.is_empty() { "-".to_owned() } else { row.filters.join(", ") }));
        }
        out.row(cells);
    }
    let told = |problem: &&DocumentProblem| namespace.is_none_or(|name| problem.namespace == name);
    let problems: String = table.body.problems.iter().filter(told).map(|problem| tell(problem, look)).collect();
    format!("{}{problems}", out.render(look))
}

/// `warning[ST0431]: HTTPRoute/orders: default/orders {v3} has no endpoint now   (/spec/rules/0/backendRefs/1)`.
fn tell(problem: &DocumentProblem, look: &Look) -> String {
    let DocumentProblem { document_kind, namespace, name, code, detail, pointer, reason: _ } = problem;
    let pointer = pointer.as_ref().map(|pointer| format!("   ({pointer})")).unwrap_or_default();
    let name = short_key(namespace, name);
    format!("{}: {document_kind}/{name}: {detail}{pointer}\n", look.paint(&format!("warning[{code}]"), Tone::Warn))
}

/// Where requests go, or what is done instead.
fn leads_to(row: &RouteRow) -> String {
    match row.filters.iter().find(|filter| *filter == "RequestRedirect") {
        Some(filter) if row.backends.is_empty() => filter.clone(),
        Some(_) | None => backends(&row.backends, &row.service.namespace),
    }
}

/// `orders{stable} 90%, {canary} 10%`: a service that was just named is not named again.
fn backends(backends: &[RouteBackend], home: &str) -> String {
    let mut last: Option<String> = None;
    let mut parts = Vec::new();
    for backend in backends {
        if let Some(reason) = &backend.invalid {
            parts.push(format!("({reason}) {}", figures::weight(backend.share)));
            last = None;
            continue;
        }
        let name =
            if backend.namespace == home { backend.name.clone() } else { short_key(&backend.namespace, &backend.name) };
        let subset = backend.subset.as_ref().map(|subset| format!("{{{subset}}}")).unwrap_or_default();
        let shown = if last.as_ref() == Some(&name) && !subset.is_empty() { "" } else { name.as_str() };
        parts.push(format!("{shown}{subset} {}", figures::weight(backend.share)));
        last = Some(name);
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

fn source(row: &RouteRow) -> String {
    let generation = row.source.generation.as_ref().map(|generation| format!(" gen {generation}")).unwrap_or_default();
    let signer = row.source.key_id.as_ref().map(|key| format!(" by {key}")).unwrap_or_default();
    format!("{}{generation}{signer}", row.source.kind)
}
