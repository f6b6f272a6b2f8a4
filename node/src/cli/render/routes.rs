//! `starling routes`: the route table in use, row by row in the order in which rows are tried.

use crate::api::views::{RouteBackend, RouteRow, RouteTable};
use crate::cli::figures;
use crate::cli::look::Look;
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
    let mut out = Table::new(titles);
    for row in rows {
        let mut cells = Vec::new();
        if namespaces {
            cells.push(Cell::new(&row.service.namespace));
        }
        if services {
            cells.push(Cell::new(&row.service.name));
        }
        cells.extend([
            Cell::new(row.order.to_string()),
            Cell::new(row.route.as_deref().unwrap_or("(default)")),
            Cell::maybe(row.rule.as_deref()),
            Cell::new(&row.matches),
            Cell::new(backends(&row.backends, &row.service.namespace)),
            Cell::new(&row.timeout),
            Cell::new(row.retries.to_string()),
            Cell::new(source(row)),
        ]);
        out.row(cells);
    }
    out.render(look)
}

/// `orders{stable} 90%, {canary} 10%`: a service that was just named is not named again.
fn backends(backends: &[RouteBackend], home: &str) -> String {
    let mut last: Option<String> = None;
    let mut parts = Vec::new();
    for backend in backends {
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
