//! `starling apply`: checks documents, shows what they change, signs them and hands them to an agent.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use starling_model::envelope::SIGNATURE_BYTES;
use starling_model::{DocumentKey, Namespace};

use super::input::{self, Input};
use super::plan::Step;
use super::wait::Awaited;
use super::{SignArgs, Wanted, hand_over, label_of, live, look_up};
use crate::api::views::{ApplyRequest, SignedForm};
use crate::cli::client::{ANSWER_TIMEOUT, Client};
use crate::cli::errors::{CliError, Exit};
use crate::cli::operator_key::Desk;
use crate::cli::{AgentPlace, lint, output};
use crate::files;

/// A file of signed forms: everybody may read it, and nobody can change it unnoticed.
const SIGNED_MODE: u32 = 0o644;

/// Flags of `starling apply`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples
  starling apply -f canary.yaml --wait           # until every live member uses it
  starling apply -f mesh/ --dry-run              # what would change; nothing is signed
  starling apply -f mesh/ --sign-only mesh.json  # then, on any member, without the key:
  starling apply -f mesh.json --wait
  starling get httproute orders --generation 13 -o yaml | starling apply -f -
All documents of one call are used together or not at all; what is unchanged is not signed again.")]
pub(crate) struct ApplyArgs {
    /// A file, a folder (its .yaml, .yml and .json files) or - for standard input; may be given several times
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    file: Vec<PathBuf>,
    /// Shows what would change, and signs and sends nothing
    #[arg(long)]
    dry_run: bool,
    /// Writes the signed documents into a file instead of sending them; - for standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dry_run", "wait"])]
    sign_only: Option<PathBuf>,
    #[command(flatten)]
    sign: SignArgs,
    #[command(flatten)]
    place: AgentPlace,
}

impl ApplyArgs {
    pub(crate) fn place(&self) -> &AgentPlace {
        &self.place
    }
}

/// Runs the command.
pub(crate) fn run(client: &Client, args: &ApplyArgs, asked: Option<&Namespace>) -> Result<Exit, CliError> {
    let input = input::read(&args.file)?;
    let signed: Vec<Signed> = input.files.iter().filter_map(|(path, text)| Signed::read(path, text)).collect();
    if signed.is_empty() {
        return documents(client, args, input, asked);
    }
    if signed.len() < input.files.len() || !input.unread.is_empty() {
        return Err(CliError::plain(Exit::Usage, "files of signed documents and others are given together")
            .help(["apply them one after the other"]));
    }
    if args.sign_only.is_some() {
        return Err(CliError::plain(Exit::Usage, format!("{} is signed already", signed[0].path)));
    }
    // Each is a batch of its own, and half of a call must not be in use.
    let count = signed.len();
    match signed.into_iter().next().filter(|_| count == 1) {
        Some(batch) => batch.apply(client, args),
        None => Err(CliError::plain(Exit::Usage, format!("{count} files of signed documents are given together"))
            .help(["apply them one after the other"])),
    }
}

/// Documents that are to be signed here.
fn documents(client: &Client, args: &ApplyArgs, input: Input, asked: Option<&Namespace>) -> Result<Exit, CliError> {
    let read = match lint::checked(input) {
        Ok((read, warnings)) => {
            output::message(&warnings);
            read
        }
        Err(problems) => {
            output::message(&format!("{problems}nothing was sent\n"));
            return Ok(Exit::Refused);
        }
    };
    if read.is_empty() {
        return Err(CliError::plain(Exit::Bad, "the input holds no document"));
    }
    super::in_namespace(read.iter().map(|document| &document.key), asked)?;
    let told = live::ask(client, &read, ANSWER_TIMEOUT);
    output::message(&told.problems.iter().map(|(_, problem)| format!("{problem}\n")).collect::<String>());
    let mut steps = Vec::new();
    for document in read {
        let held = look_up(client, &document.key, Wanted::Held)?;
        let step = Step::new(document.key, Some(document.text), held.as_ref().map(|held| &held.body));
        steps.push(step.removing(&told.removes));
    }
    if args.dry_run {
        let told = output::print(&render(&steps, None)?)?;
        output::message("nothing was signed or sent (--dry-run)\n");
        return Ok(told);
    }
    if let Some(path) = &args.sign_only {
        return sign_only(client, args, &steps, path);
    }
    send(client, &steps, &args.sign)
}

fn render(steps: &[Step], signer: Option<&str>) -> Result<String, CliError> {
    steps.iter().map(|step| step.render(signer)).collect()
}

/// Signs what is new of these, sends it, and waits if that is asked for.
pub(super) fn send(client: &Client, steps: &[Step], args: &SignArgs) -> Result<Exit, CliError> {
    let new: Vec<&Step> = steps.iter().filter(|step| !step.is_unchanged()).collect();
    let mut same = Vec::new();
    for step in steps.iter().filter(|step| step.is_unchanged()) {
        let held = look_up(client, &step.key, Wanted::Used)?;
        same.extend(held.map(|held| Awaited::of(&held.body)).transpose()?);
    }
    if new.is_empty() {
        let told = output::print(&render(steps, None)?)?;
        return if args.wait.wait { hand_over::settle(client, &same, args.wait) } else { Ok(told) };
    }
    let desk = Desk::open(client, &args.key)?;
    let drafts = new.iter().map(|step| step.draft()).collect::<Result<Vec<_>, _>>()?;
    let forms = desk.sign(&drafts, SystemTime::now())?;
    let keys: Vec<DocumentKey> = new.iter().map(|step| step.key.clone()).collect();
    let accepted = hand_over::send(client, forms, &keys)?;
    output::print(&render(steps, Some(&desk.signer()))?)?;
    hand_over::conclude(client, &accepted, same, args.wait)
}

fn sign_only(client: &Client, args: &ApplyArgs, steps: &[Step], path: &Path) -> Result<Exit, CliError> {
    let new: Vec<&Step> = steps.iter().filter(|step| !step.is_unchanged()).collect();
    if new.is_empty() {
        output::print(&render(steps, None)?)?;
        return Err(CliError::plain(Exit::Bad, "nothing changed, so nothing was signed or written"));
    }
    let desk = Desk::open(client, &args.sign.key)?;
    let drafts = new.iter().map(|step| step.draft()).collect::<Result<Vec<_>, _>>()?;
    let json = hand_over::body(desk.sign(&drafts, SystemTime::now())?)?;
    let told = render(steps, Some(&desk.signer()))?;
    if path == Path::new("-") {
        output::message(&told);
        return output::print_body(&json);
    }
    files::replace(path, &json, SIGNED_MODE)?;
    output::print(&format!("{told}wrote {0}\nnext, on any member:  starling apply -f {0} --wait\n", path.display()))
}

/// A file that `--sign-only` wrote.
struct Signed {
    path: String,
    forms: Vec<SignedForm>,
}

impl Signed {
    /// `None` for a file of another kind.
    fn read(path: &str, text: &str) -> Option<Self> {
        let forms = serde_json::from_str::<ApplyRequest>(text).map(|request| request.documents);
        let forms = forms.or_else(|_| serde_json::from_str::<SignedForm>(text).map(|form| vec![form])).ok()?;
        (!forms.is_empty()).then(|| Self { path: path.to_owned(), forms })
    }

    fn apply(self, client: &Client, args: &ApplyArgs) -> Result<Exit, CliError> {
        let (mut keys, mut told) = (Vec::new(), String::new());
        for form in &self.forms {
            let (document, _) = header(form).ok_or_else(|| {
                CliError::plain(Exit::Refused, format!("{} holds a signed form that cannot be read", self.path))
            })?;
            let deleted = if document.deleted { " (deleted)" } else { "" };
            let (name, generation) = (label_of(&document.key), document.generation);
            told.push_str(&format!("{name}   generation {generation}{deleted}   signed by {}\n", document.signer));
            keys.push(document.key);
        }
        if args.dry_run {
            let printed = output::print(&told)?;
            output::message("nothing was sent (--dry-run)\n");
            return Ok(printed);
        }
        let accepted = hand_over::send(client, self.forms, &keys)?;
        output::print(&told)?;
        hand_over::conclude(client, &accepted, Vec::new(), args.sign.wait)
    }
}

/// The header of a signed form and the length of its text.
fn header(form: &SignedForm) -> Option<(starling_model::Document, usize)> {
    let body = BASE64.decode(&form.payload).ok()?;
    let whole = BASE64.decode(&form.signature).ok().filter(|signature| signature.len() == SIGNATURE_BYTES);
    let (document, text) = starling_model::Document::read(&body).ok()?;
    whole.map(|_| (document, text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_signed_forms_is_told_from_documents() {
        let form = r#"{"format": "starling-document/1", "payload": "", "keyId": "k1", "signature": ""}"#;
        let read = |text: &str| Signed::read("x", text).map(|signed| signed.forms.len());
        assert_eq!(read(form), Some(1));
        assert_eq!(read(&format!("{{\"documents\": [{form}, {form}]}}")), Some(2));
        for other in ["", "{}", "{\"documents\": []}", "{\"kind\": \"Service\"}", "kind: Service\n", "[]"] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_form_that_holds_no_document_has_no_header() {
        let form = |payload: &[u8], signature: &[u8]| SignedForm {
            format: "starling-document/1".to_owned(),
            payload: BASE64.encode(payload),
            key_id: "k1".to_owned(),
            signature: BASE64.encode(signature),
        };
        let body = starling_model::Document {
            schema: 1,
            key: DocumentKey::parse("Service", "default", "web").unwrap(),
            signer: "k1".parse().unwrap(),
            generation: starling_model::Generation::FIRST,
            signed_at: 0,
            deleted: false,
            batch: None,
        };
        let body = body.to_body("kind: Service").unwrap();
        assert_eq!(header(&form(&body, &[0; SIGNATURE_BYTES])).map(|(_, len)| len), Some(13));
        assert!(header(&form(&body, &[0; SIGNATURE_BYTES - 1])).is_none());
        assert!(header(&form(b"x", &[0; SIGNATURE_BYTES])).is_none());
    }
}
