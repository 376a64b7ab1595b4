//! `pillarbox quickstart`: a demo server on loopback, and the first messages through it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use serde_json::json;

use super::local_change::LocalChange;
use super::serve::{Reload, Signals, run_server, serve};
use crate::api::KeyView;
use crate::app::Running;
use crate::config::Config;
use crate::durable_file;
use crate::mail::Timestamp;
use crate::model::{Environment, EventKind, KeyId, KeySecret, KeyStatus, MessageId, TenantId};
use crate::store::{Directory, Event, Journal, KeyFilter, NewKey, NewTenant, PageRequest, Store, Tenant};
use crate::telemetry;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The directory for configuration and data; created if it does not exist
    #[arg(long, value_name = "DIR", default_value = "pillarbox-data")]
    dir: PathBuf,
    /// Adds this number to the ports 2587, 2465 and 8587, so that several demo servers can run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=i64::from(u16::MAX - API_PORT)))]
    port_offset: Option<u16>,
}

const CONFIG_FILE: &str = "pillarbox.toml";
const DEMO_SLUG: &str = "demo";
const KEY_NAME: &str = "quickstart";
/// Platform keys among which that of the first start is looked for.
const KEYS_MAX: usize = 100;
const SUBMISSION_PORT: u16 = 2587;
const SUBMISSIONS_PORT: u16 = 2465;
const API_PORT: u16 = 8587;
const MESSAGE_DEADLINE: Duration = Duration::from_secs(20);

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = prepare_dir(&arguments.dir, arguments.port_offset.unwrap_or_default())?;
    let config = Config::load(&path)?;
    refuse_lost_data(&path, &config.data_dir)?;
    if let Some(offset) = arguments.port_offset
        && !config.api.listen.iter().any(|address| address.port() == API_PORT + offset)
    {
        bail!("{} has other ports; change them there, or leave out --port-offset", path.display());
    }
    let log = telemetry::start(&config.log);
    run_server(async {
        let signals = Signals::listen()?;
        let running = Running::start(&config).await.with_context(|| path.display().to_string())?;
        let demo = Demo::create(running.store()).await?;
        if config.ui.enabled {
            print_sign_in_link(&running).await?;
        }
        match demo {
            Some(demo) => demo.present(&running, &config).await?,
            None => print_restart(&Endpoints::of(&running, &config)?, &config.data_dir),
        }
        println!("\nThe server is running. Ctrl-C stops it; the same command starts it again with its data.");
        serve(running, signals, &Reload { path: &path, config: &config, log: &log }).await
    })
}

/// Creates the directory and the configuration file, unless they exist.
fn prepare_dir(dir: &Path, port_offset: u16) -> anyhow::Result<PathBuf> {
    durable_file::create_directory(dir, 0o755).with_context(|| format!("cannot create {}", dir.display()))?;
    let dir = dir.canonicalize().with_context(|| format!("cannot resolve {}", dir.display()))?;
    let path = dir.join(CONFIG_FILE);
    if !path.try_exists().with_context(|| format!("cannot access {}", path.display()))? {
        let data_dir = toml::Value::String(dir.join("data").display().to_string());
        let text = format!(
            "# Created by `pillarbox quickstart`: loopback only, high ports, a self-signed certificate.\n\
             hostname = \"localhost\"\n\
             data_dir = {data_dir}\n\n\
             [log]\nlevel = \"warn\"\n\n\
             [smtp]\n\
             submission = [\"127.0.0.1:{}\"]\n\
             submissions = [\"127.0.0.1:{}\"]\n\n\
             [api]\nlisten = [\"127.0.0.1:{}\"]\n",
            SUBMISSION_PORT + port_offset,
            SUBMISSIONS_PORT + port_offset,
            API_PORT + port_offset,
        );
        durable_file::create(&path, 0o644, &[text.as_bytes()])
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(path)
}

/// Refuses a data directory that does not exist, except beside the configuration: the path in the file is that of a folder
/// that was moved.
fn refuse_lost_data(path: &Path, data_dir: &Path) -> anyhow::Result<()> {
    let beside = path.with_file_name("data");
    if data_dir != beside
        && !data_dir.try_exists().with_context(|| format!("cannot access {}", data_dir.display()))?
    {
        bail!(
            "{}: data_dir {} does not exist; if the folder was moved, write the new path: data_dir = \"{}\"",
            path.display(),
            data_dir.display(),
            beside.display()
        );
    }
    Ok(())
}

/// What the first start creates.
struct Demo {
    platform_secret: KeySecret,
    key_id: KeyId,
    secret: KeySecret,
}

impl Demo {
    /// Creates the platform key, the tenant and its key; `None` if an earlier start created them.
    async fn create(store: &Store) -> anyhow::Result<Option<Self>> {
        let tenant = match store.tenant_by_slug(DEMO_SLUG).await? {
            Some(tenant) if has_key(store, tenant.id).await? => return Ok(None),
            // An earlier start was interrupted.
            Some(tenant) => tenant,
            None => create_tenant(store).await?,
        };
        let (platform_secret, _) = create_key(store, None, Environment::Live).await?;
        let (secret, key_id) = create_key(store, Some(tenant.id), Environment::Test).await?;
        Ok(Some(Self { platform_secret, key_id, secret }))
    }

    /// Prints the credentials, and sends one message that is delivered and one that comes back.
    async fn present(&self, running: &Running, config: &Config) -> anyhow::Result<()> {
        let endpoints = Endpoints::of(running, config)?;
        println!("{}", self.instructions(&endpoints));
        println!("The first message, sent by {} over SMTP:\n", endpoints.sender);
        let send = async |local, subject| {
            self.send(&endpoints, local, subject).await.with_context(|| format!("{subject} was not accepted"))
        };
        send("newcomer", "The first message").await?;
        print_timeline(running.store(), EventKind::MessageDelivered).await?;
        println!("\nA bounce that comes back after the delivery, as the address requests:\n");
        send("late-bounce", "The second message").await?;
        print_timeline(running.store(), EventKind::MessageBounced).await
    }

    /// Credentials, addresses and commands to paste.
    fn instructions(&self, endpoints: &Endpoints) -> String {
        let Endpoints { submission, api, sender, ca, .. } = endpoints;
        let (user, secret, platform) = (self.key_id, self.secret.expose(), self.platform_secret.expose());
        let port = submission.port();
        let mut text = String::from("Pillarbox is running. The two secrets below are shown only once.\n\n");
        let _ = write!(
            text,
            "  platform key   {platform}\n\
             \x20 demo tenant    user {user}\n\
             \x20                password {secret}   (environment test: mail stays in the sandbox)\n\
             {}\n\
             Paste one of these:\n\n\
             # swaks\n\
             swaks --server localhost:{port} --tls --tls-ca-path {ca} --tls-verify --auth PLAIN \\\n\
             \x20 --auth-user {user} --auth-password {secret} \\\n\
             \x20 --from {sender} --to someone@example.com --header 'Subject: Hello from swaks'\n\n\
             # curl, SMTP\n\
             printf 'From: {sender}\\r\\nTo: someone@example.com\\r\\nSubject: Hello from curl\\r\\n\\r\\nHi.\\r\\n' |\n\
             curl --ssl-reqd --cacert {ca} --url smtp://localhost:{port} --user {user}:{secret} \\\n\
             \x20 --mail-from {sender} --mail-rcpt someone@example.com --upload-file -\n\n\
             # Python\n\
             python3 - <<'END'\n\
             import smtplib, ssl\n\
             from email.message import EmailMessage\n\
             mail = EmailMessage()\n\
             mail['From'], mail['To'], mail['Subject'] = '{sender}', 'someone@example.com', 'Hello from Python'\n\
             mail.set_content('Hi.')\n\
             with smtplib.SMTP('localhost', {port}) as smtp:\n\
             \x20   smtp.starttls(context=ssl.create_default_context(cafile='{ca}'))\n\
             \x20   smtp.login('{user}', '{secret}')\n\
             \x20   smtp.send_message(mail)\n\
             END\n\n\
             # the API: list the messages; create a tenant\n\
             curl -H 'Authorization: Bearer {secret}' http://{api}/v1/emails\n\
             curl -H 'Authorization: Bearer {platform}' -H 'Content-Type: application/json' \\\n\
             \x20 -d '{{\"name\": \"Acme\"}}' http://{api}/v1/tenants\n",
            endpoints.summary()
        );
        text
    }

    /// Sends with lettre, as an independent client does.
    async fn send(&self, endpoints: &Endpoints, local: &str, subject: &str) -> anyhow::Result<()> {
        let message = Message::builder()
            .from(endpoints.sender.parse()?)
            .to(format!("{local}@example.com").parse()?)
            .subject(subject)
            .header(ContentType::TEXT_PLAIN)
            .body(String::from("It works.\n"))?;
        let ca = Certificate::from_pem(&std::fs::read(&endpoints.ca)?)?;
        let tls = TlsParameters::builder("localhost".into()).add_root_certificate(ca).build()?;
        let credentials = Credentials::new(self.key_id.to_string(), self.secret.expose().to_owned());
        AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(endpoints.submission.ip().to_string())
            .port(endpoints.submission.port())
            .tls(Tls::Required(tls))
            .credentials(credentials)
            .build()
            .send(message)
            .await?;
        Ok(())
    }
}

async fn create_tenant(store: &Store) -> anyhow::Result<Tenant> {
    let change = LocalChange::begin(store, "create_tenant", KEY_NAME.into(), None);
    let tenant = change.store.create_tenant(NewTenant::named("Demo", DEMO_SLUG), Timestamp::now()).await?;
    let Tenant { id, name, slug, .. } = &tenant;
    change.end(&json!({"object": "tenant", "id": id, "name": name, "slug": slug})).await?;
    Ok(tenant)
}

async fn has_key(store: &Store, tenant: TenantId) -> anyhow::Result<bool> {
    let filter = KeyFilter { tenant_id: Some(tenant), ..KeyFilter::default() };
    Ok(!store.list_keys(filter, newest()).await?.items.is_empty())
}

/// Prints a link that signs in with the platform key of the first start, if that still works.
async fn print_sign_in_link(running: &Running) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let filter =
        KeyFilter { of_platform: true, status: Some((KeyStatus::Active, now)), ..KeyFilter::default() };
    let page = PageRequest { limit: KEYS_MAX, ..PageRequest::default() };
    let keys = running.store().list_keys(filter, page).await?.items;
    let key = keys.into_iter().find(|key| key.name == KEY_NAME);
    if let (Some(key), Some(api)) = (key, running.api_addresses.first())
        && let Some(present) =
            running.store().scram_credential(&key.id.to_string(), now).await?.secrets.first()
    {
        let link = running.api().sign_in_link(present.digest, "/ui/messages", &format!("http://{api}")).await;
        let link = link.map_err(|error| anyhow::anyhow!(error.refusal.message))?;
        println!("Open {link}\nThe link works once, for five minutes. Then sign in with the platform key.\n");
    }
    Ok(())
}

async fn create_key(
    store: &Store,
    tenant_id: Option<TenantId>,
    environment: Environment,
) -> anyhow::Result<(KeySecret, KeyId)> {
    let secret = KeySecret::generate(environment);
    let new = NewKey::unrestricted(tenant_id, KEY_NAME, environment, &secret);
    let change = LocalChange::begin(store, "create_key", KEY_NAME.into(), None);
    let now = Timestamp::now();
    let key = change.store.create_key(new, now).await?;
    let id = key.id;
    change.end(&serde_json::to_value(KeyView::new(key, now))?).await?;
    Ok((secret, id))
}

/// The addresses of the server and what a client needs besides.
struct Endpoints {
    submission: SocketAddr,
    submissions: SocketAddr,
    api: SocketAddr,
    sender: String,
    ca: String,
}

impl Endpoints {
    fn of(running: &Running, config: &Config) -> anyhow::Result<Self> {
        let first = |addresses: &[SocketAddr], option| {
            addresses.first().copied().with_context(|| format!("the configuration has no {option} listener"))
        };
        Ok(Self {
            submission: first(&running.submission_addresses, "smtp.submission")?,
            submissions: first(&running.submissions_addresses, "smtp.submissions")?,
            api: first(&running.api_addresses, "api.listen")?,
            sender: format!("hello@sandbox.{}", config.hostname),
            ca: config.data_dir.join("self-signed.crt").display().to_string(),
        })
    }
}

impl Endpoints {
    /// Addresses, sender and links, one in a line.
    fn summary(&self) -> String {
        let Self { submission, submissions, api, sender, ca } = self;
        format!(
            "  sender         {sender}\n\
             \x20 submission     localhost:{} STARTTLS, localhost:{} TLS\n\
             \x20 API            http://{api}   (documentation: http://{api}/docs)\n\
             \x20 certificate    {ca}\n",
            submission.port(),
            submissions.port()
        )
    }
}

/// More events than a message here has.
const EVENTS_MAX: usize = 100;

/// Waits until the newest message has an event of this kind, and prints its events.
async fn print_timeline(store: &Store, last: EventKind) -> anyhow::Result<()> {
    let page = store.list_messages(Default::default(), newest()).await?;
    let message = page.items.into_iter().next().context("the message is not in the store")?.message;
    let events = tokio::time::timeout(MESSAGE_DEADLINE, wait_for_event(store, message.id, last))
        .await
        .with_context(|| format!("{last} did not happen in time; see the log"))??;
    let accepted = message.created_at;
    println!("  {:>7}  accepted   {} ({} octets), on disk before the 250", "0 ms", message.id, message.size);
    if let Some(domain) = &message.dkim_domain {
        println!("  {:>7}  signed     DKIM, d={domain}", "");
    }
    for event in events.iter().filter(|event| event.kind != EventKind::MessageAccepted) {
        println!("  {:>7}  {}", elapsed(accepted, event), event_text(event));
    }
    Ok(())
}

fn newest() -> PageRequest {
    PageRequest { limit: 1, ..Default::default() }
}

async fn wait_for_event(store: &Store, id: MessageId, kind: EventKind) -> anyhow::Result<Vec<Event>> {
    let mut interval = tokio::time::interval(Duration::from_millis(10));
    loop {
        interval.tick().await;
        let events = store.message_events(id, None, EVENTS_MAX).await?.items;
        if events.iter().any(|event| event.kind == kind) {
            return Ok(events);
        }
    }
}

fn elapsed(start: Timestamp, event: &Event) -> String {
    format!("{} ms", event.created_at.duration_since(start).as_millis())
}

fn event_text(event: &Event) -> String {
    let what = event.kind.as_str().trim_start_matches("message.");
    let data = |name: &str| event.data[name].as_str().unwrap_or_default();
    if event.kind == EventKind::SuppressionCreated {
        return format!("{:<10} {}: more mail to it is refused", "suppressed", data("address"));
    }
    format!("{what:<9}  to {} in the sandbox: {}", data("recipient"), data("reply"))
}

fn print_restart(endpoints: &Endpoints, data_dir: &Path) {
    let dir = data_dir.display();
    let program = std::env::current_exe().unwrap_or_else(|_| "pillarbox".into());
    let program = program.display();
    println!(
        "Pillarbox is running with the data in {dir}.\n\n{}\n\
         The first start showed the secrets of its keys. These commands create new keys:\n\n  \
         {program} key create --data-dir {dir} --name ops\n  \
         {program} key create --data-dir {dir} --name app --tenant {DEMO_SLUG} --environment test",
        endpoints.summary()
    );
}
