//! Every check: its id, what it is about, what it means, and what happens if it is wrong.

/// One check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// The stable id.
    pub id: &'static str,
    /// What it is about.
    pub subject: Subject,
    /// What it looks at.
    pub meaning: &'static str,
    /// What happens if it is wrong.
    pub consequence: &'static str,
}

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The server: `GET /v1/doctor`.
    Server,
    /// A sending domain: `GET /v1/domains/{id}/doctor`.
    Domain,
}

macro_rules! checks {
    ($($subject:ident { $($id:literal: $meaning:literal, $consequence:literal;)* })*) => {
        /// Every check, in the order of the documentation.
        pub const CHECKS: &[Check] = &[$($(Check {
            id: $id,
            subject: Subject::$subject,
            meaning: $meaning,
            consequence: $consequence,
        },)*)*];
    };
}

checks! {
    Server {
        "config.valid": "The configuration file can be read, and every option has an allowed value.", "The server does not start.";
        "config.hostname": "The host name is fully qualified and not localhost.", "Receivers distrust a server that greets with such a name.";
        "config.api_exposed": "The API is encrypted, or reachable on this machine only.", "Keys and mail can be read on the way.";
        "config.ports": "The ports of the listeners are free for this user.", "The server does not start.";
        "name.resolves": "The host name leads to the addresses of this server.", "Mail clients do not find the server, and receivers distrust it.";
        "name.ehlo": "Each name in EHLO leads to the address that greets with it.", "Receivers refuse or delay mail (RFC 5321 §4.1.4).";
        "name.ptr": "Each source address has a reverse name that leads back to it and is not one of a pool.", "Large receivers refuse the mail.";
        "net.port25": "Mail hosts can be reached on port 25.", "No mail leaves.";
        "net.public_address": "The address that others see is the one in the configuration.", "Names and SPF are checked for the wrong address.";
        "net.ipv6": "IPv6 sources have reverse names.", "Receivers refuse mail over IPv6 sooner than over IPv4.";
        "net.dnsbl": "No DNS block list has a source address.", "Receivers that use the list refuse the mail.";
        "dns.answers": "Each name server answers, and quickly.", "Mail waits for look-ups.";
        "dns.dnssec": "The name servers pass DNSSEC signatures.", "DANE is not used, so TLS to such hosts is not verified.";
        "dns.public_resolver": "The name servers are not public resolvers.", "Block lists refuse their questions.";
        "spf.host": "The SPF record of the host name permits each source address.", "Bounces and reports of this server fail SPF.";
        "spf.include": "The SPF record that tenants include permits each source address, with few look-ups.", "Mail of every tenant fails SPF.";
        "tls.chain": "The certificate leads to an authority that systems trust, and its key fits.", "Mail clients refuse the connection.";
        "tls.name": "The certificate is for the host name.", "Mail clients refuse the connection.";
        "tls.expires": "At least a third of the life of the certificate is left.", "Mail clients refuse the connection once it has ended.";
        "tls.starttls": "The submission listener completes STARTTLS.", "Mail clients cannot submit.";
        "tls.implicit": "The submissions listener completes a TLS handshake.", "Mail clients cannot submit.";
        "tls.no_auth_in_clear": "No login is offered before encryption.", "Passwords can be read on the way.";
        "self.submission": "The server accepts a message over SMTP, and its signature is valid with the record in the DNS.", "Mail cannot be submitted, or fails DKIM.";
        "acme.order": "The last order of a certificate succeeded.", "The certificate ends.";
        "acme.record": "The DNS has the records that prove the names, if the last order needed them.", "Orders fail.";
        "acme.port80": "The listener that answers the authority could be opened at the last order.", "Orders by http-01 fail.";
        "disk.free": "The data directory has free space.", "Mail is refused under the minimum.";
        "disk.fsync": "Synced writes are fast.", "Each 250 waits for one.";
        "disk.kind": "The data directory is on a local, lasting file system.", "Accepted mail can be lost.";
        "key.mode": "Only its owner, and the group of the server if root owns it, can read the master key.", "Other users of the machine can read all secrets.";
        "key.opens": "The master key can be read and has the right form.", "Mail is not signed.";
        "key.beside_data": "The master key is not in the data directory.", "A copy of the directory has the secrets and their key.";
        "limit.files": "The process may open as many files as the limits of connections need.", "Connections are refused early.";
        "limit.memory": "The process may use as much memory as its buffers may fill.", "The system ends the server when they are full.";
        "clock.synced": "The clock is synchronized.", "Signatures, certificates, retries and logs have the wrong time.";
        "queue.age": "No delivery is due for long, in the hundred largest parts of the queue.", "Mail is late.";
        "queue.site_held": "No site is in back-off for long.", "Mail to the site is late.";
        "webhook.failing": "Webhooks accept their events.", "Programs miss events; the webhook is disabled after five days.";
        "domain.failing": "Verified domains keep their records.", "Their mail is refused after the grace period.";
        "smart_host.refused": "Smart hosts accept their logins.", "Mail through them waits.";
        "store.database": "PostgreSQL can be reached, answers quickly, and has the settings that the queue needs.", "No mail is accepted or delivered; or both are slow.";
        "store.quick_check": "The database is whole.", "Mail and settings are lost.";
        "backup.age": "There is a backup that is not older than doctor.backup_age_max.", "What was accepted since is lost with the disk.";
    }
    Domain {
        "domain.ownership": "The domain has the record that shows who owns it.", "The domain stays or becomes unverified.";
        "dkim.record": "The DNS has the public half of each key that signs.", "Receivers see broken signatures.";
        "dkim.size": "Keys are long enough.", "Receivers ignore signatures of short keys (RFC 8301).";
        "dkim.duplicate": "Each selector has one record.", "Receivers may take the wrong one (RFC 6376 §3.6.2.2).";
        "spf.one": "The domain has one SPF record.", "With several, receivers use none (RFC 7208 §4.5).";
        "spf.passes": "The record permits each source address.", "Mail fails SPF where it is aligned.";
        "spf.lookups": "The record needs at most 10 look-ups, 2 of them void.", "Receivers use none of it (RFC 7208 §4.6.4).";
        "spf.plus_all": "The record does not permit the whole Internet.", "Anybody can send as the domain.";
        "dmarc.one": "The domain has one DMARC record.", "Large receivers refuse bulk mail without one; several count as none.";
        "dmarc.policy": "What the policy asks receivers to do.", "With p=none, forged mail is delivered.";
        "dmarc.aligned": "DKIM or the reverse path is aligned with the domain.", "Mail fails DMARC.";
        "dmarc.rua": "Other domains that get its reports agree to it.", "Receivers send no reports there.";
        "mx.replies": "Mail can come back to the reverse path.", "Bounces are lost, and receivers distrust the sender.";
        "domain.taken_above": "No other tenant has verified the domain or one above it.", "The same name cannot be verified twice. Under the domain of another tenant, only a verified domain can send.";
    }
}

/// The check with an id.
pub fn find(id: &str) -> Option<&'static Check> {
    CHECKS.iter().find(|check| check.id == id)
}
