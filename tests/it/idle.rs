//! A server that has nothing to do.

use std::time::Duration;

use pillarbox::store::Journal;

use crate::server::{message, one_destination};
use crate::wait::until;

const MINUTES: usize = 20;

#[tokio::test]
async fn an_idle_server_writes_nothing_for_many_minutes() {
    let (_dns, _mx, server) = one_destination().await;
    let account = server.create_account("own.test").await;
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "hello")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let (mut quiet, mut commits) = (0, 0);
    until("many minutes pass without a commit", async || {
        server.clock.advance(Duration::from_secs(61));
        let now = server.running().store().counts().commits;
        quiet = if now == commits { quiet + 1 } else { 0 };
        commits = now;
        (quiet == MINUTES).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_was_accepted_is_found_a_second_later_also_after_a_quiet_time() {
    let (_dns, _mx, server) = one_destination().await;
    let account = server.create_account("own.test").await;
    server.clock.advance(Duration::from_secs(30 * 60));
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "rare")).await;
    // Without a search, which would index it.
    let indexed = async || {
        server.clock.advance(Duration::from_secs(2));
        let connection = rusqlite::Connection::open(server.config.data_dir.join("pillarbox.db")).unwrap();
        let sql = "SELECT count(*) FROM search_place WHERE message_id = ?1";
        let count: u32 = connection.query_row(sql, [&id], |row| row.get(0)).unwrap();
        (count == 1).then_some(())
    };
    until("the message is in the index", indexed).await;
}
