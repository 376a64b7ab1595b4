//! `pillarbox tenant export` and `import`: a tenant as a bundle.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::archive::{digest_of, read_bundle};
use crate::cli::api_client::{ApiClient, Query, Refusal};
use crate::cli::output::text;
use crate::http_client::ResponseStream;
use crate::store::BundleObject;

/// What a report counts.
const COUNTED: [&str; 3] = ["created", "unchanged", "excluded"];
/// Octets of the objects of one request, below the limit of a body (`api.send_body_max`).
const PIECE_OCTETS_MAX: usize = 1024 * 1024;
/// Objects of one request.
const PIECE_OBJECTS_MAX: usize = 1000;

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
}

/// Prints the bundle of a tenant as it arrives.
pub(super) async fn export(client: &ApiClient, path: &str, messages: bool) -> anyhow::Result<()> {
    let mut stream = open(client, path, messages).await?;
    let mut out = stdout().lock();
    while let Some(piece) = stream.next().await? {
        out.write_all(&piece)?;
    }
    Ok(out.flush()?)
}

async fn open(client: &ApiClient, path: &str, messages: bool) -> anyhow::Result<ResponseStream> {
    client.stream(&format!("{path}/export"), &vec![("messages", messages.to_string())]).await
}

/// Writes the bundle of a tenant with its messages to a new file, and checks that it is whole.
pub(super) async fn save(client: &ApiClient, path: &str, file: &Path) -> anyhow::Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut written = made.with_context(|| file.display().to_string())?;
    let mut stream = open(client, path, true).await?;
    while let Some(piece) = stream.next().await? {
        written.write_all(&piece)?;
    }
    written.sync_all()?;
    let saved = File::open(file).with_context(|| file.display().to_string())?;
    read_bundle(BufReader::new(saved), |_| false).with_context(|| file.display().to_string())?;
    Ok(())
}

/// Imports a bundle in pieces. All of them are tried first, so a conflict in the last one imports nothing.
pub(super) async fn import(client: &ApiClient, arguments: ImportArguments) -> anyhow::Result<()> {
    let ImportArguments { file, dry_run, slug, trust_domains } = arguments;
    let bundle = read_bundle(open_bundle(&file)?, |kind| kind != "message").with_context(|| file.clone())?;
    if bundle.left_out > 0 {
        eprintln!("{} messages are not imported", bundle.left_out);
    }
    let bodies: Vec<Value> = pieces(bundle.objects)?
        .iter()
        .map(|piece| {
            json!({
                "objects": piece, "sha256": digest_of(piece), "slug": slug, "trust_domains": trust_domains,
            })
        })
        .collect();
    let tried = send(client, &bodies, true).await?;
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
    let report = if dry_run { tried } else { send(client, &bodies, false).await? };
    client.print(&report, |report| report_text(report) + &slug_note(report, slug.as_deref()))
}

/// A file, or the standard input for `-`.
fn open_bundle(source: &str) -> anyhow::Result<Box<dyn BufRead>> {
    if source == "-" {
        return Ok(Box::new(stdin().lock()));
    }
    let file = File::open(source).with_context(|| format!("cannot read {source}"))?;
    Ok(Box::new(BufReader::new(file)))
}

/// The objects in pieces, each with the tenant first. The first one has the tenant alone.
fn pieces(objects: Vec<BundleObject>) -> anyhow::Result<Vec<Vec<BundleObject>>> {
    let mut objects = objects.into_iter();
    let Some(tenant) = objects.next() else { bail!("the bundle is empty") };
    let octets_of = |object: &BundleObject| Value::Object(object.clone()).to_string().len();
    let (mut pieces, mut octets) = (vec![vec![tenant.clone()]], PIECE_OCTETS_MAX);
    for object in objects {
        octets += octets_of(&object);
        let is_full = |piece: &Vec<BundleObject>| piece.len() == PIECE_OBJECTS_MAX;
        if octets > PIECE_OCTETS_MAX || pieces.last().is_some_and(is_full) {
            pieces.push(vec![tenant.clone()]);
            octets = octets_of(&object);
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push(object);
        }
    }
    Ok(pieces)
}

/// Sends all pieces, and sums what they report.
async fn send(client: &ApiClient, bodies: &[Value], dry_run: bool) -> anyhow::Result<Value> {
    let query: Query = vec![("dry_run", dry_run.to_string())];
    let mut sum = json!({"object": "import", "tenant_id": null, "slug": null, "dry_run": dry_run});
    let (mut counts, mut conflicts) = ([0; 3], Vec::new());
    // What the tenant counts in each piece but the first, which has nothing else.
    let mut of_tenant = [0; 3];
    for (number, body) in bodies.iter().enumerate() {
        let report = client.post_with("/v1/tenants/import", &query, body).await?;
        let reported = COUNTED.map(|name| report[name].as_u64().unwrap_or_default());
        for ((count, reported), of_tenant) in counts.iter_mut().zip(reported).zip(of_tenant) {
            *count += reported.saturating_sub(of_tenant);
        }
        if number == 0 {
            of_tenant = if dry_run { reported } else { [0, 1, 0] };
        }
        for field in ["tenant_id", "slug"] {
            sum[field] = report[field].clone();
        }
        conflicts.extend(report["conflicts"].as_array().cloned().unwrap_or_default());
        if !conflicts.is_empty() {
            break;
        }
    }
    for (count, name) in counts.into_iter().zip(COUNTED) {
        sum[name] = count.into();
    }
    sum["conflicts"] = conflicts.into();
    Ok(sum)
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
    if count("excluded") > 0 {
        lines += &format!(
            "secrets that are not in the bundle: {}; publish the records of the new DKIM keys, set the password of the \
             smart host, rotate the secrets of the webhooks and enable them\n",
            count("excluded")
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

    #[test]
    fn a_large_bundle_is_sent_in_pieces_with_the_tenant_first() {
        let object = |number: usize| BundleObject::from_iter([("id".to_owned(), json!(number))]);
        let all: Vec<_> = (0..2500).map(object).collect();
        let pieces = pieces(all.clone()).unwrap();
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1000, 1000, 502]);
        assert!(pieces.iter().all(|piece| piece[0] == all[0]));
        let others: Vec<_> = pieces.into_iter().flat_map(|piece| piece.into_iter().skip(1)).collect();
        assert_eq!(others, all[1..]);
        assert!(super::pieces(Vec::new()).is_err());
    }
}
