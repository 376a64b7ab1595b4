//! This process as one of the nodes that serve a database: it gets an epoch, extends its lease each second, takes over what
//! a node had claimed whose lease has ended, and applies what other nodes announce. The clock of the database decides when a
//! lease ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_postgres::{Client, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::announcements;
use super::quota_table;
use crate::mail::Timestamp;
use crate::model::{DeliveryId, TenantId};
use crate::store::SpoolChange;
use crate::store::database::{PostgresServer, Signals};
use crate::store::memory::{
    AnnouncementTargets, LEASE_TIME, LeaseState, NodeLease, Nodes, Reload, uptime_ms,
};

/// Between two heartbeats.
const INTERVAL: Duration = Duration::from_secs(1);
/// A heartbeat without an answer for so long is given up, with its session.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the age of the lease is looked at.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// A takeover waits for the transactions of the other node that run at its beginning.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two notifications. Each of them takes a lock of the whole server.
const NOTIFY_INTERVAL: Duration = Duration::from_millis(50);
/// Heartbeats between two comparisons of the claims in the database with those in memory, and between two deletions of old
/// rows, by one of the nodes.
const BEATS_PER_COMPARISON: u32 = 60;

/// A heartbeat is lost with a crash of the server, after which no node has a lease for some seconds anyway.
const SET_UP: &str = "SET synchronous_commit = off; LISTEN pillarbox";
const JOIN: &str = "INSERT INTO node (node_id, name, version, state, lease_until)
    VALUES ($1, $2, $3, 'live', clock_timestamp() + $4 * interval '1 second') RETURNING epoch";
/// Extends the lease, unless another node has taken over. The nodes with a lease come with the answer.
const BEAT: &str = "WITH beat AS (
        UPDATE node SET lease_until = clock_timestamp() + $2 * interval '1 second'
        WHERE epoch = $1 AND state = 'live' RETURNING epoch)
    SELECT EXISTS (SELECT FROM beat),
           ARRAY (SELECT epoch FROM node WHERE state = 'live' AND lease_until > clock_timestamp() ORDER BY epoch),
           ARRAY (SELECT epoch FROM node WHERE state = 'live' AND lease_until < clock_timestamp() AND epoch <> $1)";
/// The earlier processes of this data directory, whose lock this one holds: they have ended.
const EARLIER: &str = "SELECT epoch FROM node WHERE node_id = $1 AND state = 'live'";
/// The first due time of each tenant with deliveries that no node has, by one step of the index for each.
const DUE: &str = "WITH RECURSIVE waiting (tenant_id, next_attempt_us) AS (
        (SELECT tenant_id, next_attempt_us FROM queue WHERE owner = 0
         ORDER BY tenant_id, next_attempt_us LIMIT 1)
        UNION ALL
        SELECT next.* FROM waiting, LATERAL (
            SELECT tenant_id, next_attempt_us FROM queue WHERE owner = 0 AND tenant_id > waiting.tenant_id
            ORDER BY tenant_id, next_attempt_us LIMIT 1) next)
    SELECT tenant_id, next_attempt_us FROM waiting";
const CLAIMED: &str = "SELECT id FROM queue WHERE owner = $1";
const GIVE_BACK: &str = "UPDATE queue SET owner = 0 WHERE id = ANY ($1) AND owner = $2 RETURNING tenant_id";
const PRUNE_NODES: &str =
    "DELETE FROM node WHERE state <> 'live' AND lease_until < clock_timestamp() - interval '30 days'";

/// What the heartbeat works with.
pub(in crate::store) struct Node {
    pub(in crate::store) server: Arc<PostgresServer>,
    pub(in crate::store) lease: NodeLease,
    pub(in crate::store) targets: AnnouncementTargets,
    /// Reads again what an announcement cannot carry.
    pub(in crate::store) reload: Box<dyn Fn(Reload) + Send + Sync>,
    /// Names the data directory.
    pub(in crate::store) node_id: String,
}

/// The tasks of a node, until it leaves.
pub(in crate::store) struct Heartbeat {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum NodeError {
    #[error("{}", .0.as_db_error().map_or_else(|| .0.to_string(), |error| error.message().to_owned()))]
    Database(#[from] tokio_postgres::Error),
    #[error("the server did not answer in time")]
    NoAnswer,
}

type Result<T> = std::result::Result<T, NodeError>;

/// The heartbeat at work.
struct Beating {
    node: Node,
    session: Option<Client>,
    /// Notifications of other nodes.
    signals: Arc<Signals>,
    /// The number of the last announcement that was applied; `None` before the first lease.
    announced: Option<i64>,
    /// The epochs whose lease had ended at the last heartbeat.
    expired: Vec<i64>,
    /// Heartbeats have been answered since then.
    unbroken_since: Instant,
    takeover: Option<AbortOnDropHandle<()>>,
    beats: u32,
    /// When the first due times are read again.
    due_read_at: Instant,
}

/// Why a node may be taken over.
#[derive(Clone, Copy)]
enum When {
    /// Its lease has ended.
    Expired,
    /// Its process has ended.
    Ended,
}

impl Heartbeat {
    /// Gives back all claims and ends the lease.
    pub(in crate::store) async fn end(mut self) {
        self.stop.cancel();
        if (&mut self.task).await.is_err() {
            tracing::error!("the heartbeat of this node ended in a panic");
        }
    }
}

impl Drop for Heartbeat {
    /// Without [`Self::end`], the lease ends by itself.
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    /// Begins the lease, then extends it in a task.
    pub(in crate::store) async fn join(self) -> Result<Heartbeat> {
        let mut beating = Beating {
            node: self,
            session: None,
            signals: Arc::default(),
            announced: None,
            expired: Vec::new(),
            unbroken_since: Instant::now(),
            takeover: None,
            beats: 0,
            due_read_at: Instant::now(),
        };
        within(TAKEOVER_TIMEOUT, beating.take_over_earlier()).await?;
        within(ANSWER_TIMEOUT, beating.begin()).await?;
        within(ANSWER_TIMEOUT, beating.note_due()).await?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(beating.run(stop.clone()));
        Ok(Heartbeat { stop, task })
    }
}

impl Beating {
    async fn run(mut self, stop: CancellationToken) {
        let lease = self.node.lease.clone();
        let publish = async {
            let mut tick = interval(PUBLISH_INTERVAL);
            loop {
                tick.tick().await;
                lease.publish();
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = publish => {}
            () = self.beat() => {}
        }
        if let Err(error) = within(ANSWER_TIMEOUT, self.leave()).await {
            tracing::warn!(%error, "other nodes take over the mail of this one after some seconds, because it could not give it back");
        }
        self.node.lease.end();
    }

    async fn beat(&mut self) {
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (lease, signals) = (self.node.lease.clone(), Arc::clone(&self.signals));
        loop {
            let step = tokio::select! {
                _ = tick.tick() => self.beat_once().await,
                () = lease.wait_for_given_back() => within(ANSWER_TIMEOUT, self.give_back()).await,
                () = lease.wait_for_announced() => within(ANSWER_TIMEOUT, self.notify()).await,
                () = signals.notified.notified() => within(ANSWER_TIMEOUT, self.read_announcements()).await,
            };
            if let Err(error) = step {
                tracing::warn!(%error, "a step of the heartbeat of this node failed");
                self.session = None;
                self.unbroken_since = Instant::now();
            }
        }
    }

    async fn beat_once(&mut self) -> Result<()> {
        if self.node.lease.epoch() == 0 {
            return within(ANSWER_TIMEOUT, self.begin()).await;
        }
        let expired = within(ANSWER_TIMEOUT, self.extend()).await?;
        // The clock of the database may have jumped: nodes that are alive extend their leases within a second.
        let before = std::mem::replace(&mut self.expired, expired);
        let expired: Vec<i64> = self.expired.iter().copied().filter(|epoch| before.contains(epoch)).collect();
        self.begin_takeover(&expired);
        within(ANSWER_TIMEOUT, self.give_back()).await?;
        within(ANSWER_TIMEOUT, self.read_announcements()).await?;
        within(ANSWER_TIMEOUT, self.note_due()).await?;
        self.beats = self.beats.wrapping_add(1);
        if !self.beats.is_multiple_of(BEATS_PER_COMPARISON) {
            return Ok(());
        }
        within(ANSWER_TIMEOUT, self.note_claimed()).await?;
        if self.node.lease.nodes().rank == 0 {
            within(ANSWER_TIMEOUT, self.prune()).await?;
        }
        Ok(())
    }

    /// Gets a new epoch.
    async fn begin(&mut self) -> Result<()> {
        if self.announced.is_none() {
            self.announced = Some(self.session().await?.query_one(announcements::BEGIN, &[]).await?.get(0));
        }
        self.node.targets.forget_all();
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let node_id = self.node.node_id.clone();
        let (version, seconds) = (env!("CARGO_PKG_VERSION"), LEASE_TIME.as_secs_f64());
        let sent_ms = uptime_ms();
        let joined = self.session().await?.query_one(JOIN, &[&node_id, &name, &version, &seconds]).await?;
        let epoch: i64 = joined.get(0);
        self.node.lease.begin(epoch, sent_ms);
        tracing::info!(epoch, "this node has a lease");
        Ok(())
    }

    /// Returns the epochs whose lease has ended.
    async fn extend(&mut self) -> Result<Vec<i64>> {
        let epoch = self.node.lease.epoch();
        let sent_ms = uptime_ms();
        let answer = self.session().await?.query_one(BEAT, &[&epoch, &LEASE_TIME.as_secs_f64()]).await?;
        let (is_extended, live, expired): (bool, Vec<i64>, Vec<i64>) =
            (answer.get(0), answer.get(1), answer.get(2));
        if !is_extended {
            tracing::error!(
                epoch,
                "another node has taken over the mail of this one, which gets a new lease"
            );
            self.node.lease.end();
            self.node.targets.feed.send(SpoolChange::ClaimsLost { epoch });
            self.begin().await?;
            return Ok(Vec::new());
        }
        if self.node.lease.state() != LeaseState::Fresh {
            self.node.targets.forget_all();
        }
        // The snapshot of the statement shows this node with its former lease.
        let others = live.iter().filter(|&&other| other != epoch);
        let count = others.clone().count() + 1;
        let rank = others.filter(|&&other| other < epoch).count();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.node.lease.extend(sent_ms, Nodes { count: number(count), rank: number(rank) });
        Ok(expired)
    }

    /// Takes over from earlier processes of this data directory.
    async fn take_over_earlier(&mut self) -> Result<()> {
        let node_id = self.node.node_id.clone();
        for row in self.session().await?.query(EARLIER, &[&node_id]).await? {
            take_over(&self.node.server, row.get(0), When::Ended).await?;
        }
        Ok(())
    }

    /// Takes over from one of these nodes at a time, beside the heartbeats: it waits for the transactions of that node.
    fn begin_takeover(&mut self, expired: &[i64]) {
        // After an outage of the database, the other nodes get time for their heartbeats.
        if self.unbroken_since.elapsed() < LEASE_TIME
            || self.takeover.as_ref().is_some_and(|takeover| !takeover.is_finished())
        {
            return;
        }
        // One that has to wait too long does not keep the mail of the others.
        let turn = self.beats as usize % expired.len().max(1);
        let Some(&epoch) = expired.get(turn) else { return };
        let server = Arc::clone(&self.node.server);
        self.takeover = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let taken = within(TAKEOVER_TIMEOUT, take_over(&server, epoch, When::Expired)).await;
            if let Err(error) = taken {
                tracing::warn!(%error, epoch, "the mail of a node that has no lease any more was not taken over yet");
            }
        })));
    }

    /// Ends claims without a result.
    async fn give_back(&mut self) -> Result<()> {
        let ids = self.node.lease.given_back();
        if ids.is_empty() {
            return Ok(());
        }
        let texts: Vec<String> = ids.iter().map(DeliveryId::to_string).collect();
        let epoch = self.node.lease.epoch();
        let rows = self.session().await?.query(GIVE_BACK, &[&texts, &epoch]).await?;
        self.node.lease.forget_given_back(ids.len());
        for tenant_id in rows.iter().filter_map(tenant) {
            self.node.targets.feed.send(SpoolChange::Due { tenant_id, at: Timestamp::MIN });
        }
        Ok(())
    }

    /// Makes the other nodes read announcements.
    async fn notify(&mut self) -> Result<()> {
        // What is announced meanwhile needs no notification of its own.
        tokio::time::sleep(NOTIFY_INTERVAL).await;
        Ok(self.session().await?.batch_execute("NOTIFY pillarbox").await?)
    }

    async fn read_announcements(&mut self) -> Result<()> {
        let Some(announced) = self.announced else { return Ok(()) };
        let rows = self.session().await?.query(announcements::READ, &[&announced]).await?;
        for row in &rows {
            let news = announcements::news_in(row, &self.node.lease);
            if let Some(reload) = news.and_then(|news| self.node.targets.apply(news)) {
                (self.node.reload)(reload);
            }
            self.announced = Some(row.get(0));
        }
        if rows.len() == announcements::PAGE_ROWS {
            // The next page, after a heartbeat that may be due.
            self.signals.notified.notify_one();
        }
        Ok(())
    }

    /// Notes when tenants have due deliveries that no node has: other nodes put them there. Takes a tenth of the time at most,
    /// because an old snapshot of another session makes it slow.
    async fn note_due(&mut self) -> Result<()> {
        let begun = Instant::now();
        if begun < self.due_read_at {
            return Ok(());
        }
        let rows = self.session().await?.query(DUE, &[]).await?;
        for row in &rows {
            let Some(tenant_id) = tenant(row) else { continue };
            let at = Timestamp::from_microsecond(row.get(1)).unwrap_or(Timestamp::MAX);
            self.node.targets.feed.send(SpoolChange::Due { tenant_id, at });
        }
        self.due_read_at = begun + 10 * begun.elapsed();
        Ok(())
    }

    async fn note_claimed(&mut self) -> Result<()> {
        let epoch = self.node.lease.epoch();
        let rows = self.session().await?.query(CLAIMED, &[&epoch]).await?;
        let ids = rows.iter().filter_map(|row| row.get::<_, &str>(0).parse().ok());
        self.node.targets.feed.send(SpoolChange::Claimed(ids.collect()));
        Ok(())
    }

    async fn prune(&mut self) -> Result<()> {
        let client = self.session().await?;
        client.execute(announcements::PRUNE, &[]).await?;
        client.execute(PRUNE_NODES, &[]).await?;
        client.execute(quota_table::PRUNE, &[]).await?;
        Ok(())
    }

    /// Gives back everything, so that other nodes need not wait for the end of the lease.
    async fn leave(&mut self) -> Result<()> {
        let epoch = self.node.lease.epoch();
        if epoch == 0 {
            return Ok(());
        }
        // A transaction without an answer may still be committed: it must not claim anything afterwards.
        let sql = format!(
            "BEGIN; SELECT pg_advisory_xact_lock(1, {epoch});
             UPDATE node SET state = 'left' WHERE epoch = {epoch} AND state = 'live';
             UPDATE queue SET owner = 0 WHERE owner = {epoch}; COMMIT; NOTIFY pillarbox"
        );
        Ok(self.session().await?.batch_execute(&sql).await?)
    }

    async fn session(&mut self) -> Result<&Client> {
        if self.session.as_ref().is_none_or(Client::is_closed) {
            let client = self.node.server.connect_noting(Arc::clone(&self.signals)).await?;
            client.batch_execute(SET_UP).await?;
            return Ok(self.session.insert(client));
        }
        self.session.as_ref().ok_or(NodeError::NoAnswer)
    }
}

/// Takes over what a node has claimed.
async fn take_over(server: &PostgresServer, epoch: i64, when: When) -> Result<()> {
    let condition = match when {
        When::Expired => "lease_until < clock_timestamp()",
        When::Ended => "TRUE",
    };
    // The lock waits for the transactions of that node. It writes nothing afterwards: see `require_live_node`.
    let sql = format!(
        "BEGIN; SET LOCAL synchronous_commit = on; SELECT pg_advisory_xact_lock(1, {epoch});
         WITH dead AS (UPDATE node SET state = 'dead' WHERE epoch = {epoch} AND state = 'live' AND {condition}
                       RETURNING epoch),
              freed AS (UPDATE queue SET owner = 0 FROM dead WHERE queue.owner = dead.epoch RETURNING 1)
         SELECT count(*) AS deliveries FROM freed HAVING EXISTS (SELECT FROM dead);
         COMMIT"
    );
    let answers = server.connect_noting(Arc::default()).await?.simple_query(&sql).await?;
    let deliveries = answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.try_get("deliveries").ok().flatten(),
        _ => None,
    });
    // Another node may have been faster.
    if let Some(deliveries) = deliveries {
        tracing::warn!(epoch, deliveries, "took over the mail of a node that has no lease any more");
    }
    Ok(())
}

/// The tenant of a row. One that is damaged must not keep the mail of the others from being delivered.
fn tenant(row: &tokio_postgres::Row) -> Option<TenantId> {
    row.get::<_, &str>(0).parse().ok()
}

async fn within<T>(limit: Duration, step: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, step).await.unwrap_or(Err(NodeError::NoAnswer))
}
