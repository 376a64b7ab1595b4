//! `pillarbox tenant import`: sends a bundle in pieces.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::archive::{BundleReader, SecretIdentity, digest_of, encrypted_secret, read_bundle};
use crate::cli::api_client::{ApiClient, Query, Refusal};
use crate::cli::output::text;
use crate::store::BundleObject;

/// What a report counts.
const COUNTED: [&str; 5] = ["created", "unchanged", "excluded", "left_open", "open_deliveries"];
/// Octets of the objects of one request, below the limit of a body (`api.send_body_max`).
const PIECE_OCTETS_MAX: usize = 1024 * 1024;
/// Objects of one request.
const PIECE_OBJECTS_MAX: usize = 1000;
/// Messages of one request. Each has many rows, and other mail is accepted only between two requests.
const PIECE_MESSAGES_MAX: usize = 100;

/// How a bundle is imported.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArguments {
    /// The bundle, or - for the standard input
    file: String,
    /// Only says what would be done
    #[arg(long)]
    dry_run: bool,
    /// Another slug for the tenant, if it is new
    #[arg(long)]
    slug: Option<String>,
    /// Leaves verified domains verified; by default they are pending until their records are seen here
    #[arg(long)]
    trust_domains: bool,
    /// Decrypts the secrets of the bundle with the private key of age in this file, on this machine
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Also messages with their history; those with open deliveries are left out
    #[arg(long)]
    messages: bool,
    /// Also messages with open deliveries, which this server then makes; the tenant must have been suspended before the export
    #[arg(long, requires = "messages")]
    open: bool,
}

/// Imports a bundle. All of it is tried first, so a conflict in the last piece imports nothing.
pub(super) async fn import(client: &ApiClient, arguments: ImportArguments) -> anyhow::Result<()> {
    let (dry_run, slug) = (arguments.dry_run, arguments.slug.clone());
    let import = Import::read(arguments)?;
    let tried = import.send(client, true).await?;
    let conflicts = tried["conflicts"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !conflicts.is_empty() {
        let lines = conflicts.iter().map(|conflict| {
            format!("  {} {}: {}", text(conflict, "object"), text(conflict, "id"), text(conflict, "reason"))
        });
        let lines: Vec<_> = lines.collect();
        return Err(Refusal::new(format!(
            "nothing was imported, because of conflicts:\n{}",
            lines.join("\n")
        ))
        .into());
    }
    let report = if dry_run { tried } else { import.send(client, false).await? };
    client.print(&report, |report| report_text(report) + &slug_note(report, slug.as_deref()))
}

/// A bundle that was checked. Its messages stay in the file.
struct Import {
    arguments: ImportArguments,
    tenant: BundleObject,
    others: Vec<BundleObject>,
}

impl Import {
    fn read(arguments: ImportArguments) -> anyhow::Result<Self> {
        let file = &arguments.file;
        if arguments.messages && file == "-" {
            bail!("the messages of a bundle are read from a file, because they are read twice: name one");
        }
        let bundle = read_bundle(open_bundle(file)?, |kind| kind != "message").context(file.clone())?;
        match (bundle.left_out, arguments.messages) {
            (0, true) => eprintln!("the bundle has no messages; tenant export --messages adds them"),
            (1.., false) => eprintln!("{} messages are left out; --messages imports them", bundle.left_out),
            _ => {}
        }
        if arguments.open {
            check_open(&bundle.header)?;
        }
        let mut objects = bundle.objects;
        decrypt(&mut objects, arguments.identity.as_deref())?;
        let mut objects = objects.into_iter();
        let Some(tenant) = objects.next() else { bail!("the bundle is empty") };
        Ok(Self { arguments, tenant, others: objects.collect() })
    }

    /// Sends all pieces, up to the first one with a conflict, and sums what they report.
    async fn send(&self, client: &ApiClient, dry_run: bool) -> anyhow::Result<Value> {
        let mut sum = Sum { is_dry_run: dry_run, ..Sum::default() };
        let mut pieces = vec![vec![self.tenant.clone()]];
        pieces.extend(self.pieces());
        for piece in pieces {
            self.send_piece(client, &piece, &mut sum).await?;
        }
        if self.arguments.messages {
            self.send_messages(client, &mut sum).await?;
        }
        Ok(sum.report())
    }

    async fn send_messages(&self, client: &ApiClient, sum: &mut Sum) -> anyhow::Result<()> {
        let file = &self.arguments.file;
        let mut reader = BundleReader::new(open_bundle(file)?);
        let mut piece = Piece::new(&self.tenant, PIECE_MESSAGES_MAX);
        while let Some(object) = reader.next_object().with_context(|| file.clone())? {
            if object["object"] == "message"
                && let Some(full) = piece.push(vec![object])
            {
                self.send_piece(client, &full, sum).await?;
            }
        }
        match piece.take() {
            Some(last) => self.send_piece(client, &last, sum).await,
            None => Ok(()),
        }
    }

    async fn send_piece(
        &self,
        client: &ApiClient,
        piece: &[BundleObject],
        sum: &mut Sum,
    ) -> anyhow::Result<()> {
        if !sum.conflicts.is_empty() {
            return Ok(());
        }
        let ImportArguments { slug, trust_domains, open, .. } = &self.arguments;
        let body = json!({
            "objects": piece, "sha256": digest_of(piece), "slug": slug, "trust_domains": trust_domains,
            "open": open,
        });
        let query: Query = vec![("dry_run", sum.is_dry_run.to_string())];
        sum.add(&client.post_with("/v1/tenants/import", &query, &body).await?);
        Ok(())
    }

    /// All objects but the messages, in pieces.
    fn pieces(&self) -> Vec<Vec<BundleObject>> {
        let mut piece = Piece::new(&self.tenant, PIECE_OBJECTS_MAX - 1);
        let mut pieces: Vec<_> =
            groups(self.others.clone()).into_iter().filter_map(|group| piece.push(group)).collect();
        pieces.extend(piece.take());
        pieces
    }
}

/// Objects of one request, with the tenant first.
struct Piece<'a> {
    tenant: &'a BundleObject,
    objects_max: usize,
    objects: Vec<BundleObject>,
    octets: usize,
}

impl<'a> Piece<'a> {
    fn new(tenant: &'a BundleObject, objects_max: usize) -> Self {
        Self { tenant, objects_max, objects: Vec::new(), octets: 0 }
    }

    /// Adds objects that are sent together. If they do not fit, returns the objects before them.
    fn push(&mut self, group: Vec<BundleObject>) -> Option<Vec<BundleObject>> {
        let octets_of = |object: &BundleObject| Value::Object(object.clone()).to_string().len();
        let octets: usize = group.iter().map(octets_of).sum();
        let fits =
            self.octets + octets <= PIECE_OCTETS_MAX && self.objects.len() + group.len() <= self.objects_max;
        let full = if fits { None } else { self.take() };
        self.octets += octets;
        self.objects.extend(group);
        full
    }

    fn take(&mut self) -> Option<Vec<BundleObject>> {
        self.octets = 0;
        let objects = std::mem::take(&mut self.objects);
        let tenant = || [self.tenant.clone()].into_iter();
        (!objects.is_empty()).then(|| tenant().chain(objects).collect())
    }
}

/// The sum of the reports about the pieces.
#[derive(Default)]
struct Sum {
    is_dry_run: bool,
    tenant_id: Value,
    slug: Value,
    counts: [u64; COUNTED.len()],
    /// What the tenant counts in each piece but the first, which has nothing else.
    of_tenant: Option<[u64; COUNTED.len()]>,
    secrets: Vec<Value>,
    conflicts: Vec<Value>,
}

impl Sum {
    fn add(&mut self, report: &Value) {
        let reported = COUNTED.map(|name| report[name].as_u64().unwrap_or_default());
        let is_first = self.of_tenant.is_none();
        let of_tenant = self.of_tenant.unwrap_or_default();
        for ((count, reported), of_tenant) in self.counts.iter_mut().zip(reported).zip(of_tenant) {
            *count += reported.saturating_sub(of_tenant);
        }
        // It is there after the first piece, unless this is a dry run.
        self.of_tenant.get_or_insert(if self.is_dry_run { reported } else { [0, 1, 0, 0, 0] });
        self.tenant_id = report["tenant_id"].clone();
        self.slug = report["slug"].clone();
        let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
        let secrets = list("secrets").into_iter();
        self.secrets.extend(secrets.filter(|secret| is_first || secret["object"] != "tenant"));
        self.conflicts.extend(list("conflicts"));
    }

    fn report(self) -> Value {
        let mut report = json!({
            "object": "import", "tenant_id": self.tenant_id, "slug": self.slug, "dry_run": self.is_dry_run,
            "secrets": self.secrets, "conflicts": self.conflicts,
        });
        for (count, name) in self.counts.into_iter().zip(COUNTED) {
            report[name] = count.into();
        }
        report
    }
}

/// Open deliveries are imported only if the header of the bundle says that none was in progress during the export.
fn check_open(header: &BundleObject) -> anyhow::Result<()> {
    match header.get("deliveries_in_progress").and_then(Value::as_u64) {
        Some(0) => Ok(()),
        Some(count) => bail!(
            "{count} deliveries were in progress at the time of the export, and would be made twice: export the bundle again"
        ),
        None => Err(Refusal::new(
            "the tenant was not suspended before the export, so mail would be sent twice: suspend it on the other server, and export it again".into(),
        )
        .into()),
    }
}

/// Decrypts all secrets, or none. They leave this machine only in the requests of the import, as the secrets of other requests do.
fn decrypt(objects: &mut [BundleObject], identity: Option<&Path>) -> anyhow::Result<()> {
    let Some(file) = identity else {
        let count = objects.iter().filter(|object| encrypted_secret(object).is_some()).count();
        if count > 0 {
            eprintln!("{count} encrypted secrets are left out; --identity FILE decrypts them");
        }
        return Ok(());
    };
    let name = || file.display().to_string();
    let opened = File::open(file).with_context(name)?;
    let identity = SecretIdentity::read(BufReader::new(opened)).with_context(name)?;
    let mut count = 0;
    for object in objects {
        count += usize::from(identity.decrypt(object)?);
    }
    if count == 0 {
        bail!("the bundle has no encrypted secrets: export it with --to, or import it without --identity");
    }
    Ok(())
}

/// A file, or the standard input for `-`.
fn open_bundle(source: &str) -> anyhow::Result<Box<dyn BufRead>> {
    if source == "-" {
        return Ok(Box::new(stdin().lock()));
    }
    let file = File::open(source).with_context(|| format!("cannot read {source}"))?;
    Ok(Box::new(BufReader::new(file)))
}

/// Each domain with its DKIM keys, and every other object alone. The server makes a key for a domain that arrives without one.
fn groups(objects: Vec<BundleObject>) -> Vec<Vec<BundleObject>> {
    let mut groups: Vec<Vec<BundleObject>> = Vec::new();
    let mut of_domains: HashMap<String, usize> = HashMap::new();
    for object in objects {
        let field = |name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
        let of_domain = field("domain_id").and_then(|domain| of_domains.get(&domain).copied());
        if let Some(place) = of_domain.filter(|_| object["object"] == "dkim_key") {
            groups[place].push(object);
            continue;
        }
        if let Some(id) = field("id").filter(|_| object["object"] == "domain") {
            of_domains.insert(id, groups.len());
        }
        groups.push(vec![object]);
    }
    groups
}

fn report_text(report: &Value) -> String {
    let count = |name: &str| report[name].as_u64().unwrap_or_default();
    let verb = if report["dry_run"] == true { "would be created" } else { "created" };
    let mut lines = format!(
        "{}: {} {verb}, {} already there\n",
        text(report, "tenant_id"),
        count("created"),
        count("unchanged")
    );
    let secrets = report["secrets"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !secrets.is_empty() {
        let verb = if report["dry_run"] == true { "would be stored" } else { "are stored" };
        lines += &format!("the secrets of these {verb} as they are in the bundle:\n");
        for secret in secrets {
            lines += &format!("  {} {}\n", text(secret, "object"), text(secret, "id"));
        }
    }
    if count("excluded") > 0 {
        lines += &format!(
            "secrets that are left out: {}; publish the records of the new DKIM keys, set the password of the \
             smart host, rotate the secrets of the webhooks and enable them\n",
            count("excluded")
        );
    }
    if count("left_open") > 0 {
        lines += &format!(
            "messages that are left out, because the other server still delivers them: {}; export and import the tenant \
             again later, or suspend it there before the export and import it with --open\n",
            count("left_open")
        );
    }
    if count("open_deliveries") > 0 {
        lines += &format!(
            "deliveries for this server: {}; it makes them once the tenant is active here (pillarbox tenant resume); do not \
             resume it on the other server, which would make them too\n",
            count("open_deliveries")
        );
    }
    lines
}

/// That a slug has no effect.
fn slug_note(report: &Value, wanted: Option<&str>) -> String {
    match wanted {
        Some(wanted) if report["slug"] != wanted => {
            format!("the tenant is already there, and its slug stays {}\n", text(report, "slug"))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> BundleObject {
        value.as_object().cloned().unwrap()
    }

    fn pieces(others: Vec<BundleObject>) -> Vec<Vec<BundleObject>> {
        let arguments = ImportArguments {
            file: String::new(),
            dry_run: false,
            slug: None,
            trust_domains: false,
            identity: None,
            messages: false,
            open: false,
        };
        let tenant = object(json!({"object": "tenant", "id": "tnt_1"}));
        Import { arguments, tenant, others }.pieces()
    }

    #[test]
    fn a_large_bundle_is_sent_in_pieces_with_the_tenant_first() {
        let all: Vec<_> = (0..2500).map(|number| object(json!({"object": "key", "id": number}))).collect();
        let pieces = pieces(all.clone());
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1000, 1000, 503]);
        assert!(pieces.iter().all(|piece| piece[0]["object"] == "tenant"));
        let others: Vec<_> = pieces.into_iter().flat_map(|piece| piece.into_iter().skip(1)).collect();
        assert_eq!(others, all);
    }

    #[test]
    fn a_piece_is_full_after_a_mebibyte() {
        let tenant = object(json!({"object": "tenant", "id": "tnt_1"}));
        let mut piece = Piece::new(&tenant, PIECE_MESSAGES_MAX);
        let half = object(json!({"object": "message", "content": "x".repeat(PIECE_OCTETS_MAX / 2)}));
        assert_eq!(piece.push(vec![half.clone()]), None);
        assert_eq!(piece.push(vec![half.clone()]).map(|piece| piece.len()), Some(2));
        assert_eq!(piece.take().map(|piece| piece.len()), Some(2));
        assert_eq!(piece.take(), None);
    }

    #[test]
    fn open_deliveries_need_a_header_without_deliveries_in_progress() {
        let is_allowed = |header: Value| check_open(&object(header)).is_ok();
        assert!(is_allowed(json!({"deliveries_in_progress": 0})));
        assert!(!is_allowed(json!({"deliveries_in_progress": 1})));
        assert!(!is_allowed(json!({"deliveries_in_progress": null})));
        assert!(!is_allowed(json!({})));
    }

    #[test]
    fn a_domain_is_sent_with_its_dkim_keys() {
        let domains =
            (0..1500).map(|number| object(json!({"object": "domain", "id": format!("dom_{number}")})));
        let keys = (0..1500).map(|number| {
            object(json!({"object": "dkim_key", "id": number, "domain_id": format!("dom_{number}")}))
        });
        let pieces = pieces(domains.chain(keys).collect());
        assert_eq!(pieces.iter().map(|piece| piece.len() - 1).sum::<usize>(), 3000);
        for piece in pieces {
            assert!(piece.len() <= PIECE_OBJECTS_MAX);
            let of_kind = |kind: &str| piece.iter().filter(|object| object["object"] == kind).count();
            assert_eq!(of_kind("domain"), of_kind("dkim_key"));
        }
    }
}
