//! `starling get`: documents in use, or one with its history; `-o yaml` gives the source as it was written.

use clap::Args;
use starling_model::{DocumentKey, Namespace, codes};

use super::{Wanted, kinds, label, list, look_up, not_in_use, parse, path_of, signer_of};
use crate::api::views::{Document, DocumentPage, Envelope};
use crate::cli::client::{Ask, Client, refusal};
use crate::cli::errors::{CliError, Exit};
use crate::cli::look::{Look, Mark, Tone};
use crate::cli::read::ShowArgs;
use crate::cli::render::several_namespaces;
use crate::cli::table::{Align, Cell, Table, clean};
use crate::cli::{AgentPlace, Format, figures, output};

/// Flags of `starling get`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples
  starling get                                   # all documents in use, and who uses them
  starling get httproutes -n shop
  starling get httproute orders -o yaml          # the source, comments included
  starling get httproute orders --generation 13 -o yaml | starling apply -f -")]
pub(crate) struct GetArgs {
    /// Only this kind, in any case
    #[arg(value_name = "KIND")]
    kind: Option<String>,
    /// One document: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME", requires = "kind")]
    name: Option<String>,
    /// One generation of its history
    #[arg(long, value_name = "N", requires = "name", value_parser = clap::value_parser!(u64).range(1..))]
    generation: Option<u64>,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    place: AgentPlace,
}

impl GetArgs {
    pub(crate) fn place(&self) -> &AgentPlace {
        &self.place
    }

    pub(crate) fn headers(&self) -> bool {
        !self.show.no_headers
    }
}

/// Runs the command.
pub(crate) fn run(
    client: &Client,
    args: &GetArgs,
    namespace: Option<&Namespace>,
    look: &Look,
) -> Result<Exit, CliError> {
    let kind = args.kind.as_deref().map(kinds::kind).transpose()?;
    if let (Some(kind), Some(name)) = (&kind, &args.name) {
        let fallback = namespace.cloned().unwrap_or_default();
        let key = kinds::key(kind.clone(), name, &fallback)?;
        return one(client, args, &key, look);
    }
    let mut page = list(client)?;
    page.body.items.retain(|item| {
        kind.as_ref().is_none_or(|kind| kind.as_str() == item.document_kind)
            && namespace.is_none_or(|namespace| namespace.as_str() == item.namespace)
    });
    match args.show.output {
        Format::Table | Format::Wide => output::print(&table(&page, args.show.output == Format::Wide, look)),
        Format::Name => output::print(&page.body.items.iter().map(name).collect::<String>()),
        Format::Json => output::print_body(&output::to_json(&page)?),
        Format::Yaml => sources(client, &page.body.items),
    }
}

fn one(client: &Client, args: &GetArgs, key: &DocumentKey, look: &Look) -> Result<Exit, CliError> {
    let query = args.generation.map(|number| format!("?generation={number}")).unwrap_or_default();
    let answer = client.try_ask(Ask::get(&format!("{}{query}", path_of(key))))?;
    match (answer.status, args.generation) {
        (404, None) => return Err(not_in_use(client, key)),
        (404, Some(number)) => return Err(not_held(client, key, number)?),
        (400.., _) => return Err(refusal(&answer)),
        _ => {}
    }
    let document: Envelope<Document> = parse(&answer.body)?;
    match args.show.output {
        Format::Json => output::print_body(&answer.body),
        Format::Yaml if document.body.deleted => {
            let what = format!("generation {} of {key} deletes it, so it has no source", document.body.generation);
            Err(CliError::plain(Exit::NotFound, what))
        }
        Format::Yaml => output::print_source(&source(&document.body)),
        Format::Name => output::print(&name(&document.body)),
        Format::Table | Format::Wide => {
            let Envelope { api_version, kind, view, body } = document;
            let page = Envelope { api_version, kind, view, body: DocumentPage { items: vec![body], next: None } };
            let more = page.body.items.first().map(|one| format!("{}{}", held_back(one, look), history(one, look)));
            let table = table(&page, args.show.output == Format::Wide, look);
            output::print(&format!("{table}{}", more.unwrap_or_default()))
        }
    }
}

/// Which generations there are instead.
fn not_held(client: &Client, key: &DocumentKey, number: u64) -> Result<CliError, CliError> {
    let Some(held) = look_up(client, key, Wanted::Held)? else { return Ok(not_in_use(client, key)) };
    let mut held: Vec<u64> = held.body.history.iter().flatten().map(|version| version.generation).collect();
    held.dedup();
    let held = held.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Ok(CliError::coded(Exit::NotFound, codes::UNKNOWN_NAME, format!("generation {number} of {key} is not held here"))
        .help([format!("held are {held}; other members may hold others")]))
}

/// The sources of all, as one YAML stream.
fn sources(client: &Client, items: &[Document]) -> Result<Exit, CliError> {
    let mut text = String::new();
    for item in items {
        let key = DocumentKey::parse(&item.document_kind, &item.namespace, &item.name);
        let key = key.map_err(|error| CliError::plain(Exit::Bad, error.to_string()))?;
        // Deleted since the list was made: no longer in use.
        let Some(whole) = look_up(client, &key, Wanted::Used)? else { continue };
        if !text.is_empty() {
            text.push_str("---\n");
        }
        text.push_str(&source(&whole.body));
    }
    output::print_source(&text)
}

/// The source byte for byte, with the line feed that ends a file.
fn source(document: &Document) -> String {
    let mut text = document.source.clone().unwrap_or_default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn name(document: &Document) -> String {
    format!("{}\n", clean(&format!("{}/{}/{}", document.document_kind, document.namespace, document.name)))
}

/// The table of the manual; `‼` marks a generation that was signed with several contents.
fn table(page: &Envelope<DocumentPage>, wide: bool, look: &Look) -> String {
    use Align::{Left, Right};
    let items = &page.body.items;
    let namespaces = wide || several_namespaces(items.iter().map(|item| item.namespace.as_str()));
    let mut columns = vec![("KIND", Left)];
    if namespaces {
        columns.push(("NAMESPACE", Left));
    }
    columns.extend([
        ("NAME", Left),
        ("GENERATION", Right),
        ("SIGNER", Left),
        ("AGE", Right),
        ("IN USE", Left),
        ("DIGEST", Left),
    ]);
    if wide {
        columns.extend([("KEY", Left), ("SIGNED AT", Left), ("BATCH", Left)]);
    }
    let mut table = Table::new(columns);
    for item in items {
        let mut cells = vec![Cell::new(&item.document_kind)];
        if namespaces {
            cells.push(Cell::new(&item.namespace));
        }
        let age = figures::seconds_between(&item.signed_at, &page.view.as_of).map(figures::age);
        let behind = item.in_use.same < item.in_use.alive;
        let mut generation = item.generation.to_string();
        if item.deleted {
            generation.insert_str(0, "deleted ");
        }
        if item.conflict.is_some() {
            generation.insert_str(0, &format!("{} ", look.mark(Mark::Warn)));
        }
        let tone = if item.conflict.is_some() { Tone::Warn } else { Tone::Plain };
        cells.extend([
            Cell::new(&item.name),
            Cell::toned(generation, tone),
            Cell::new(item.signer.name.as_deref().unwrap_or(&item.signer.key_id)),
            Cell::maybe(age),
            Cell::toned(
                format!("{}/{}", item.in_use.same, item.in_use.alive),
                if behind { Tone::Warn } else { Tone::Plain },
            ),
            Cell::new(format!("{}…", item.digest.chars().take(4).collect::<String>())),
        ]);
        if wide {
            let batch = item.batch.as_ref().map(|batch| format!("{} of {}", batch.hash, batch.count));
            cells.extend([Cell::new(&item.signer.key_id), Cell::new(&item.signed_at), Cell::maybe(batch)]);
        }
        table.row(cells);
    }
    let mut text = table.render(look);
    for item in items.iter().filter(|item| item.conflict.is_some()) {
        text.push_str(&conflict(item, look));
    }
    text
}

/// `‼ HTTPRoute/orders generation 14 was signed with different contents by k1 "alice", k2 "bob" (ST0413)`
fn conflict(item: &Document, look: &Look) -> String {
    let signers: Vec<String> = item.conflict.iter().flatten().map(|version| signer_of(&version.signer)).collect();
    format!(
        "{} {} generation {} was signed with different contents by {}; that of {} is in use ({}), the next generation ends it\n",
        look.mark(Mark::Warn),
        label(&item.document_kind, &item.namespace, &item.name),
        item.generation,
        signers.join(", "),
        signers.first().map_or("-", String::as_str),
        codes::DOCUMENT_CONFLICT,
    )
}

/// `‼ held back here: line 6, column 3: unknown field `ruels` (ST0414)`
fn held_back(document: &Document, look: &Look) -> String {
    let why = document.held_back.as_ref();
    why.map(|why| {
        let code = codes::DOCUMENT_HELD_BACK;
        format!("{} held back here: {} ({code})\n", look.mark(Mark::Warn), clean(why))
    })
    .unwrap_or_default()
}

/// The generations that are held, in one line.
fn history(document: &Document, look: &Look) -> String {
    let mut held: Vec<String> = Vec::new();
    for version in document.history.iter().flatten() {
        let number =
            if version.deleted { format!("{} (deleted)", version.generation) } else { version.generation.to_string() };
        if held.last() != Some(&number) {
            held.push(number);
        }
    }
    if held.is_empty() || !look.headers {
        return String::new();
    }
    format!("generations held here: {}   one with its source: --generation N -o yaml\n", held.join(", "))
}

#[cfg(test)]
mod tests;
