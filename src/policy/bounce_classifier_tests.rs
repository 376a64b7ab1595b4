//! Replies of real servers with the expected result. Addresses are invented, texts are real.

use super::*;
use crate::policy::reply_verdict::{Verdict, verdict_on_reply};
use crate::smtp::client::ReplyReader;

#[derive(Debug, Clone, PartialEq)]
enum End {
    /// Refused, and the address is suppressed.
    Gone,
    /// Refused.
    No,
    /// Deferred.
    Later,
}
use End::{Gone, Later, No};
use Phase::{Auth, Content as Message, Greeting, Mail, Rcpt, StartTls};

type Said = (Phase, &'static str, End, BounceClass);

const GMAIL: &[Said] = &[
    (
        Rcpt,
        "550-5.1.1 The email account that you tried to reach does not exist. Please try|550-5.1.1 double-checking \
         the recipient's email address for typos or|550 5.1.1 unnecessary spaces. NoSuchUser",
        Gone,
        RecipientUnknown,
    ),
    (
        Rcpt,
        "550-5.2.1 The email account that you tried to reach is disabled. Learn more at|550 5.2.1 DisabledUser",
        Gone,
        RecipientInactive,
    ),
    (
        Rcpt,
        "552-5.2.2 The email account that you tried to reach is over quota.|552 5.2.2 OverQuotaPerm",
        Later,
        MailboxFull,
    ),
    (
        Rcpt,
        "452-4.2.2 The recipient's inbox is out of storage space. Please direct the|452 4.2.2 recipient to",
        Later,
        MailboxFull,
    ),
    (
        Rcpt,
        "450-4.2.1 The user you are trying to contact is receiving mail at a rate that|450 4.2.1 prevents",
        Later,
        RateLimited,
    ),
    (
        Rcpt,
        "550-5.2.1 The user you are trying to contact is receiving mail at a rate that|550 5.2.1 prevents",
        No,
        RateLimited,
    ),
    (
        Message,
        "421-4.7.0 [192.0.2.1 15] Our system has detected an unusual rate of|421-4.7.0 unsolicited mail \
         originating from your IP address. To protect our|421 4.7.0 users from spam",
        Later,
        RateLimited,
    ),
    (
        Message,
        "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating|421 4.7.28 from your SPF domain",
        Later,
        RateLimited,
    ),
    (
        Message,
        "421-4.7.0 [192.0.2.1] Our system has detected that this message is|421-4.7.0 suspicious due to the very \
         low reputation of the sending IP address.|421 4.7.0 To protect our users",
        Later,
        Reputation,
    ),
    (
        Message,
        "550-5.7.1 [192.0.2.1 19] Gmail has detected that this message is likely|550-5.7.1 suspicious due to the \
         very low reputation of the sending domain.|550 5.7.1 To best protect",
        No,
        Reputation,
    ),
    (
        Message,
        "550-5.7.1 [192.0.2.1] The IP you're using to send mail is not authorized to|550-5.7.1 send email directly \
         to our servers.|550 5.7.1 Please use the SMTP relay",
        No,
        Reputation,
    ),
    (
        Message,
        "550-5.7.1 [192.0.2.1 12] Our system has detected that this message is|550-5.7.1 likely unsolicited mail. To \
         reduce the amount of spam sent to Gmail,|550 5.7.1 this message has been blocked.",
        No,
        Content,
    ),
    (
        Message,
        "550-5.7.26 This mail has been blocked because the sender is unauthenticated.|550 5.7.26 Gmail requires",
        No,
        Policy,
    ),
    (
        Message,
        "550-5.7.26 Unauthenticated email from a.example is not accepted due to|550 5.7.26 domain's DMARC policy.",
        No,
        Policy,
    ),
    (
        Message,
        "421-4.7.26 Your email has been rate limited because it is unauthenticated. Gmail|421 4.7.26 requires all",
        Later,
        RateLimited,
    ),
    (
        Message,
        "550-5.7.25 The IP address sending this message does not have a PTR record setup,|550 5.7.25 or the",
        No,
        Policy,
    ),
    (
        Message,
        "550-5.7.1 [192.0.2.1] Messages missing a valid Message-ID header are not|550 5.7.1 accepted.",
        No,
        Content,
    ),
    (
        Message,
        "552-5.7.0 This message was blocked because its content presents a potential|552 5.7.0 security issue.",
        No,
        Content,
    ),
    (
        Mail,
        "552-5.3.4 Your message exceeded Google's message size limits. Please visit|552 5.3.4 https",
        No,
        Content,
    ),
    (Message, "421-4.3.0 Temporary System Problem. Try again later (10).", Later, Temporary),
    (
        Message,
        "421 4.7.29 Your email has been blocked because this message was not received over a TLS connection",
        Later,
        Tls,
    ),
    (
        Message,
        "550-5.4.5 Daily user sending limit exceeded. For more information on Gmail|550 5.4.5 sending limits",
        No,
        RateLimited,
    ),
    (
        Rcpt,
        "550-5.7.1 We're writing to let you know that the group you tried to contact|550-5.7.1 (staff) may not exist, \
         or you may not have permission to post|550 5.7.1 messages to the group.",
        No,
        Policy,
    ),
    (
        Auth,
        "535-5.7.8 Username and Password not accepted. For more information, go to|535 5.7.8 BadCredentials",
        Later,
        Authentication,
    ),
];

const MICROSOFT: &[Said] = &[
    (
        Rcpt,
        "550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302).",
        Gone,
        RecipientUnknown,
    ),
    (
        Rcpt,
        "550 5.4.1 Recipient address rejected: Access denied. AS(201806281) [AB1.eurprd01.prod.outlook.com]",
        Gone,
        RecipientUnknown,
    ),
    (
        Rcpt,
        "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient b@b.example not found by SMTP address lookup",
        Gone,
        RecipientUnknown,
    ),
    (Rcpt, "550 5.1.1 RESOLVER.ADR.ExRecipNotFound; not found", Gone, RecipientUnknown),
    (
        Mail,
        "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service \
         provider since part of their network is on our block list (S3150).",
        No,
        Reputation,
    ),
    (
        Mail,
        "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service \
         provider since part of their network is on our block list (S3140).",
        No,
        Reputation,
    ),
    (
        Mail,
        "550 SC-001 (COL004-MC1F1) Unfortunately, messages from 192.0.2.1 weren't sent. part of their network is on our block list.",
        No,
        Reputation,
    ),
    (
        Mail,
        "550 DY-001 (SNT0) Mail rejected by Windows Live Hotmail for policy reasons. We generally do not accept email from dynamic IP's",
        No,
        Reputation,
    ),
    (Mail, "550 SC-004 Mail rejected by Windows Live Hotmail for policy reasons.", No, Policy),
    (
        Mail,
        "421 RP-001 (BAY0) Unfortunately, some messages from 192.0.2.1 weren't sent. Please try again. We have limits for how many messages can be sent per hour and per day.",
        Later,
        RateLimited,
    ),
    (
        Mail,
        "451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. (S775)",
        Later,
        Reputation,
    ),
    (Mail, "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77719)", Later, RateLimited),
    (Mail, "451 4.7.501 Access denied", Later, Reputation),
    (
        Rcpt,
        "550 5.7.606 Access denied, banned sending IP [192.0.2.1]. To request removal from this list",
        No,
        Reputation,
    ),
    (Rcpt, "550 5.7.649 Access denied", No, Reputation),
    (Rcpt, "550 5.7.511 Access denied, banned sender[192.0.2.1].", No, Reputation),
    (Rcpt, "550 5.7.501 Access denied, spam abuse detected", No, Reputation),
    (
        Rcpt,
        "550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP.",
        No,
        Reputation,
    ),
    (
        Rcpt,
        "550 5.7.508 Access denied, [192.0.2.1] has exceeded permitted limits within [192.0.2.0] range",
        No,
        RateLimited,
    ),
    (
        Rcpt,
        "550 5.7.1 Service unavailable, Client host [192.0.2.1] blocked using Spamhaus. To request removal",
        No,
        Reputation,
    ),
    (
        Rcpt,
        "550 5.7.513 Service unavailable, Client host [192.0.2.1] blocked by b.example using Customer Block list",
        No,
        Policy,
    ),
    (
        Message,
        "550 5.7.509 Access denied, sending domain a.example does not pass DMARC verification and has a DMARC policy of reject.",
        No,
        Policy,
    ),
    (
        Message,
        "550 5.7.515 Access denied, sending domain a.example doesn't meet the required authentication level.",
        No,
        Policy,
    ),
    (Message, "550 5.7.23 The message was rejected because of Sender Policy Framework violation", No, Policy),
    (
        Message,
        "450 4.7.26 Service does not accept messages sent over IPv6 unless they pass either SPF or DKIM validation",
        Later,
        Policy,
    ),
    (Rcpt, "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required", No, Policy),
    (Rcpt, "550 5.7.64 TenantAttribution; Relay Access Denied [AB1.eurprd01.prod.outlook.com]", No, Policy),
    (Rcpt, "550 5.7.1 Unable to relay", No, Policy),
    (Mail, "550 5.1.8 Access denied, bad outbound sender. For more information please go to", No, Policy),
    (
        Message,
        "554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException.MapiExceptionShutoffQuotaExceeded",
        No,
        MailboxFull,
    ),
    (Message, "432 4.3.2 STOREDRV.Deliver; recipient thread limit exceeded", Later, RateLimited),
    (Rcpt, "452 4.5.3 Too many recipients (AS780090)", Later, RateLimited),
    (Mail, "452 4.3.1 Insufficient system resources (UsedDiskSpace)", Later, Temporary),
    (Message, "550 5.3.4 ROUTING.SizeLimit; message size exceeds fixed maximum size for route", No, Content),
    (Message, "550 5.7.512 Access denied, message must be RFC 5322 section 3.6.2 compliant", No, Content),
    (Message, "554 5.4.14 Hop count exceeded - possible mail loop ATTR34", No, Dns),
    (Mail, "450 4.4.312 DNS query failed", Later, Dns),
    (Rcpt, "550 5.4.310 DNS domain b.example does not exist", No, Dns),
    (Mail, "421 4.3.2 Service not available, closing transmission channel", Later, Temporary),
];

const YAHOO: &[Said] = &[
    (
        Mail,
        "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1",
        Later,
        Reputation,
    ),
    (
        Mail,
        "421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred; Retrying will NOT succeed.",
        Later,
        Reputation,
    ),
    (
        Mail,
        "553 5.7.2 [TSS11] All messages from 192.0.2.1 will be permanently deferred; Retrying will NOT succeed.",
        No,
        Reputation,
    ),
    (
        Greeting,
        "553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1, because the ip is in Spamhaus's list",
        Later,
        Reputation,
    ),
    (Mail, "421 4.7.0 [GL01] Message from (192.0.2.1) temporarily deferred - 4.16.50.", Later, Temporary),
    (Mail, "451 Resources temporarily unavailable. Please try again later [#4.16.5].", Later, Temporary),
    (
        Message,
        "554 5.7.9 Message not accepted for policy reasons. See https://postmaster.yahooinc.com/error-codes",
        No,
        Policy,
    ),
    (Message, "554 Message not allowed - [PH01] Email not accepted for policy reasons.", No, Content),
    (
        Message,
        "554 delivery error: dd This user doesn't have a yahoo.com account (b@yahoo.com) [0] - mta1.mail.yahoo.com",
        Gone,
        RecipientUnknown,
    ),
    (
        Message,
        "554 delivery error: dd Requested mail action aborted, mailbox not found - mta1.mail.yahoo.com",
        Gone,
        RecipientUnknown,
    ),
    (
        Message,
        "554 delivery error: dd Sorry, your message to b@yahoo.com cannot be delivered. This mailbox is disabled (554.30).",
        Gone,
        RecipientInactive,
    ),
    (Greeting, "521 5.2.1 : AOL will not accept delivery of this message.", Later, Reputation),
];

const OTHER_PROVIDERS: &[Said] = &[
    // Apple
    (Rcpt, "550 5.1.1 unknown or illegal alias: b@icloud.com", Gone, RecipientUnknown),
    (Rcpt, "550 5.1.1 <b@icloud.com>: user does not exist", Gone, RecipientUnknown),
    (Rcpt, "552 5.2.2 <b@icloud.com>: user is over quota", Later, MailboxFull),
    (
        Message,
        "554 5.7.1 [HM07] Message rejected due to local policy. Please visit https://support.apple.com/",
        No,
        Policy,
    ),
    // GMX, web.de, T-Online
    (
        Greeting,
        "554-gmx.net (mxgmx016) Nemesis ESMTP Service not available|554-No SMTP service|554-Bad DNS PTR resource record.|554 For explanation visit",
        Later,
        Policy,
    ),
    (
        Greeting,
        "554-web.de (mxweb112) Nemesis ESMTP Service not available|554-No SMTP service|554 IP address is block listed.",
        Later,
        Reputation,
    ),
    (
        Rcpt,
        "550-Requested action not taken: mailbox unavailable|550 For explanation visit https://postmaster.gmx.net/",
        Gone,
        RecipientUnknown,
    ),
    (Rcpt, "450-Requested mail action not taken: mailbox unavailable|450 Please try later", Later, Temporary),
    (
        Message,
        "554-Transaction failed|554-Reject due to policy restrictions.|554 For explanation visit",
        No,
        Policy,
    ),
    (Message, "552-Requested mail action aborted: exceeded storage allocation|552 Quota", No, MailboxFull),
    (
        Greeting,
        "554 IP=192.0.2.1 - A problem occurred. (Ask your postmaster for help or to contact tosa@rx.t-online.de to clarify.)",
        Later,
        Reputation,
    ),
    // Orange, Free
    (
        Rcpt,
        "550 5.1.1 Adresse d au moins un destinataire invalide. Invalid recipient. OFR_416 [416]",
        Gone,
        RecipientUnknown,
    ),
    (
        Rcpt,
        "550 5.5.0 Boite du destinataire archivee. Archived recipient. OFR_420 [420]",
        Gone,
        RecipientInactive,
    ),
    (Rcpt, "552 5.1.1 Boite du destinataire pleine. Recipient overquota. OFR_417 [417]", Later, MailboxFull),
    (
        Greeting,
        "421 mwinf5c04 ME Trop de connexions, veuillez verifier votre configuration. Too many connections, slow down. OFR004_104 [104]",
        Later,
        RateLimited,
    ),
    (Message, "550 5.2.0 Mail rejete. Mail rejected. ofr_506 [506]", No, Content),
    (Message, "550 spam detected", No, Content),
    (
        Greeting,
        "421 Too many spams from your IP (192.0.2.1), please visit http://postmaster.free.fr/",
        Later,
        Reputation,
    ),
    // Comcast, AT&T, Earthlink, Cox
    (
        Greeting,
        "554 resimta-po-01v.sys.comcast.net 192.0.2.1 Comcast block for spam. Please see BL000000",
        Later,
        Reputation,
    ),
    (Rcpt, "550 5.1.1 Not our Customer", Gone, RecipientUnknown),
    (Rcpt, "550 5.1.0 <b@comcast.net> Account not available", Gone, RecipientInactive),
    (Mail, "421 4.1.0 192.0.2.1 Throttled - try again later. Please see RL000001", Later, RateLimited),
    (Rcpt, "452 4.1.1 <b@comcast.net> mailbox full", Later, MailboxFull),
    (
        Mail,
        "553 5.3.0 flpd590 DNSBL:RBL 521< 192.0.2.1 >_is_blocked.For assistance forward this error to abuse_rbl@abuse-att.net",
        No,
        Reputation,
    ),
    (
        Mail,
        "550 5.7.1 Connections not accepted from servers without a valid sender domain. Fix reverse DNS for 192.0.2.1",
        No,
        Policy,
    ),
    (
        Greeting,
        "550 IP 192.0.2.1 is blocked by EarthLink. Go to earthlink.net/block for details.",
        Later,
        Reputation,
    ),
    (Greeting, "554 cox.net 192.0.2.1 rejected - no rDNS", Later, Policy),
    // mail.ru, Yandex
    (
        Rcpt,
        "550 Message was not accepted -- invalid mailbox.  Local mailbox b@mail.ru is unavailable: user not found",
        Gone,
        RecipientUnknown,
    ),
    (
        Rcpt,
        "550 Message was not accepted -- invalid mailbox.  Local mailbox b@mail.ru is unavailable: account is disabled",
        Gone,
        RecipientInactive,
    ),
    (
        Message,
        "550 spam message rejected. Please visit http://help.mail.ru/notspam-support/id?c=1",
        No,
        Content,
    ),
    (Rcpt, "451 Ratelimit exceeded for mailbox b@mail.ru. Try again later.", Later, RateLimited),
    (Rcpt, "550 5.7.1 No such user!", No, RecipientUnknown),
    (Message, "554 5.7.1 [2] Message rejected under suspicion of SPAM; https://ya.cc/1IrBc", No, Content),
    (
        Mail,
        "451 4.7.1 Sorry, the service is currently unavailable. Please come back later.",
        Later,
        Temporary,
    ),
    // QQ, 163, Docomo, Naver
    (
        Rcpt,
        "550 Mailbox not found. http://service.mail.qq.com/cgi-bin/help?subtype=1&&id=20022",
        Gone,
        RecipientUnknown,
    ),
    (Rcpt, "550 Mailbox unavailable or access denied [MODQ]", No, Policy),
    (Mail, "550 Domain frequency limited [M0]. https://service.mail.qq.com/detail/0/1", No, RateLimited),
    (Mail, "550 Ip frequency limited", No, RateLimited),
    (Message, "550 Mail content denied. http://service.mail.qq.com/cgi-bin/help?subtype=1", No, Content),
    (Rcpt, "550 User not found: b@163.com", Gone, RecipientUnknown),
    (Rcpt, "550 User suspended, 163 mx", Gone, RecipientInactive),
    (
        Message,
        "554 DT:SPM 163 smtp10,DsCowAD3, please see http://mail.163.com/help/help_spam_16.htm",
        No,
        Content,
    ),
    (Mail, "554 MI:SPF 163 mx37, please see http://mail.163.com/help/help_spam_16.htm", No, Policy),
    (Mail, "554 HL:REP 163 mx5, please see", No, Reputation),
    (Rcpt, "550 Unknown user b@docomo.ne.jp", Gone, RecipientUnknown),
    (Greeting, "421 4.3.2 Your ip blocked from this server", Later, Reputation),
    // Smart hosts of other providers
    (
        Message,
        "554 Message rejected: Email address is not verified. The following identities failed the check",
        No,
        Policy,
    ),
    (Mail, "454 Throttling failure: Maximum sending rate exceeded.", Later, RateLimited),
    (Mail, "451 You've exceeded your messaging limits", Later, RateLimited),
    (Mail, "530 Authentication required", No, Authentication),
    (Auth, "535 5.7.3 Authentication unsuccessful", Later, Authentication),
    (Auth, "454 4.7.0 Temporary authentication failure", Later, Temporary),
];

const FILTERS: &[Said] = &[
    // Proofpoint, Mimecast, Barracuda, Cisco, Cloudmark, Trend Micro, Symantec
    (Mail, "550 5.7.0 Blocked - see https://ipcheck.proofpoint.com/?ip=192.0.2.1", No, Reputation),
    (Message, "550 5.7.0 Local Policy Violation", No, Policy),
    (
        Mail,
        "550 Administrative prohibition - envelope blocked - https://community.mimecast.com/docs/DOC-1369#550",
        No,
        Policy,
    ),
    (
        Rcpt,
        "550 Invalid Recipient - https://community.mimecast.com/docs/DOC-1369#550",
        Gone,
        RecipientUnknown,
    ),
    (
        Rcpt,
        "451 Internal resources are temporarily unavailable - https://community.mimecast.com/docs/DOC-1369#451",
        Later,
        Temporary,
    ),
    (
        Mail,
        "550 csi.mimecast.org Poor Reputation Sender. - https://community.mimecast.com/docs/DOC-1369#550",
        No,
        Reputation,
    ),
    (
        Mail,
        "451 IP Temporarily Blacklisted - https://community.mimecast.com/docs/DOC-1369#451",
        Later,
        Reputation,
    ),
    (
        Message,
        "554 Email rejected due to security policies - https://community.mimecast.com/docs/DOC-1369#554",
        No,
        Policy,
    ),
    (Message, "550 Rejected by header based Anti-Spoofing policy: a@a.example", No, Policy),
    (Mail, "550 DMARC Sender Invalid - envelope rejected - https://community.mimecast.com/", No, Policy),
    (
        Rcpt,
        "554 Service unavailable; Client host [192.0.2.1] blocked using Barracuda Reputation; http://www.barracudanetworks.com/reputation/?r=1",
        No,
        Reputation,
    ),
    (Message, "550 permanent failure for one or more recipients (b@b.example:blocked)", No, Content),
    (
        Message,
        "550 permanent failure for one or more recipients (b@b.example:550 5.1.1 User unknown)",
        Gone,
        RecipientUnknown,
    ),
    (
        Greeting,
        "554-mx.b.example|554 Your access to this mail system has been rejected due to the sending MTA's poor reputation.",
        Later,
        Reputation,
    ),
    (Rcpt, "550 #5.1.0 Address rejected.", Gone, RecipientUnknown),
    (Rcpt, "452 Too many recipients received this hour", Later, RateLimited),
    (Mail, "550 #5.7.1 Your access to submit messages to this e-mail system has been rejected.", No, Policy),
    (Greeting, "421 #4.4.5 Too many connections from your host.", Later, RateLimited),
    (Mail, "554 5.7.1 Blocked, see https://csi.cloudmark.com/reset-request/?ip=192.0.2.1", No, Reputation),
    (
        Mail,
        "550 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using Trend Micro Email Reputation database.",
        No,
        Reputation,
    ),
    (
        Message,
        "553-Message filtered. Refer to the Troubleshooting page at|553 https://www.symanteccloud.com/troubleshooting (#5.7.1)",
        No,
        Content,
    ),
    (Greeting, "501 Connection rejected by policy [7.7] 20805, please visit", Later, Policy),
    // Lists
    (
        Rcpt,
        "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org; https://www.spamhaus.org/query/ip/192.0.2.1",
        No,
        Reputation,
    ),
    (
        Rcpt,
        "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using bl.spamcop.net; Blocked - see http://www.spamcop.net/bl.shtml?192.0.2.1",
        No,
        Reputation,
    ),
    (
        Rcpt,
        "450 4.7.1 Service unavailable; Client host [192.0.2.1] blocked using b.barracudacentral.org",
        Later,
        Reputation,
    ),
    (
        Mail,
        "554 5.7.1 Service unavailable; Sender address [a@a.example] blocked using dbl.spamhaus.org",
        No,
        Reputation,
    ),
    (Message, "550 5.7.1 Message contains a URL listed in URIBL", No, Content),
    // SpamAssassin, rspamd, amavis, ClamAV
    (Message, "554 5.7.1 Spam message rejected", No, Content),
    (Message, "554 5.7.0 Reject, id=01234-05 - SPAM", No, Content),
    (Message, "554 5.7.0 Reject, id=01234-06 - INFECTED: Eicar-Signature", No, Content),
    (Message, "550 5.7.1 virus Eicar-Test-Signature detected by ClamAV - http://www.clamav.net", No, Content),
    (Message, "451 4.7.1 Greylisting in action, please come back later", Later, Temporary),
    (Message, "451 4.7.1 Try again later", Later, Temporary),
];

const SERVERS: &[Said] = &[
    // Postfix and Dovecot
    (
        Rcpt,
        "550 5.1.1 <b@b.example>: Recipient address rejected: User unknown in local recipient table",
        Gone,
        RecipientUnknown,
    ),
    (
        Rcpt,
        "450 4.1.1 <b@b.example>: Recipient address rejected: User unknown in virtual mailbox table",
        Later,
        RecipientUnknown,
    ),
    (
        Rcpt,
        "450 4.1.1 <b@b.example>: Recipient address rejected: unverified address: Address verification in progress",
        Later,
        Temporary,
    ),
    (
        Rcpt,
        "550 5.1.1 <b@b.example>: Recipient address rejected: undeliverable address: unknown",
        Gone,
        RecipientUnknown,
    ),
    (
        Rcpt,
        "450 4.2.0 <b@b.example>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/",
        Later,
        Temporary,
    ),
    (Rcpt, "554 5.7.1 <b@b.example>: Relay access denied", No, Policy),
    (Rcpt, "454 4.7.1 <b@b.example>: Relay access denied", Later, Policy),
    (Rcpt, "554 5.7.1 <b@b.example>: Recipient address rejected: Access denied", No, RecipientUnknown),
    (Rcpt, "450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.1]", Later, Policy),
    (Rcpt, "450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.1]", Later, Policy),
    (Rcpt, "550 5.7.1 <mx.a.example>: Helo command rejected: Host not found", No, Policy),
    (Rcpt, "550 5.1.8 <a@a.example>: Sender address rejected: Domain not found", No, Policy),
    (Rcpt, "450 4.1.8 <a@a.example>: Sender address rejected: Domain not found", Later, Policy),
    (
        Rcpt,
        "550 5.7.23 <b@b.example>: Recipient address rejected: Message rejected due to: SPF fail - not authorized.",
        No,
        Policy,
    ),
    (Mail, "552 5.3.4 Message size exceeds fixed limit", No, Content),
    (Greeting, "421 4.7.0 mx.b.example Error: too many connections from 192.0.2.1", Later, RateLimited),
    (Mail, "450 4.7.1 Error: too much mail from 192.0.2.1", Later, RateLimited),
    (Mail, "452 4.3.1 Insufficient system storage", Later, Temporary),
    (Mail, "530 5.7.0 Must issue a STARTTLS command first", No, Tls),
    (StartTls, "454 4.7.0 TLS not available due to local problem", Later, Tls),
    (Phase::Data, "554 5.5.1 Error: no valid recipients", No, Protocol),
    (Mail, "501 5.1.7 Bad sender address syntax", No, Policy),
    (Rcpt, "501 5.1.3 Bad recipient address syntax", No, Protocol),
    (Rcpt, "553 5.6.7 Must declare SMTPUTF8 to send unicode address", No, Protocol),
    (Message, "552 5.2.2 <b@b.example> Quota exceeded (mailbox for user is full)", No, MailboxFull),
    (
        Message,
        "451 4.2.0 <b@b.example> Internal error occurred. Refer to server log for more information.",
        Later,
        Temporary,
    ),
    (Message, "554 5.4.0 Error: too many hops", No, Dns),
    // Exim and cPanel
    (Rcpt, "550 Unrouteable address", Gone, RecipientUnknown),
    (Rcpt, "550 No Such User Here", Gone, RecipientUnknown),
    (
        Rcpt,
        "550-Verification failed for <a@a.example>|550-No Such User Here|550 Sender verify failed",
        No,
        Policy,
    ),
    (Rcpt, "550 relay not permitted", No, Policy),
    (
        Rcpt,
        "550-Please turn on SMTP Authentication in your mail client.|550 a.example is not permitted to relay through this server",
        No,
        Policy,
    ),
    (Phase::Hello, "550 Access denied - Invalid HELO name (See RFC2821 4.1.1.1)", Later, Policy),
    (Message, "550 High spam score", No, Content),
    (Message, "550 This message scored 12.3 spam points.", No, Content),
    (
        Greeting,
        "421 mx.b.example: Too many concurrent SMTP connections; please try again later.",
        Later,
        RateLimited,
    ),
    (Rcpt, "451 Temporary local problem - please try later", Later, Temporary),
    (Rcpt, "550 Mailbox is full / Blocks limit exceeded / Inode limit exceeded", No, MailboxFull),
    (
        Rcpt,
        "550-\"JunkMail rejected - mail.a.example [192.0.2.1] is in an RBL, see|550 http://www.spamhaus.org\"",
        No,
        Reputation,
    ),
    // sendmail, qmail, Zoho, Proton
    (Rcpt, "550 5.1.1 <b@b.example>... User unknown", Gone, RecipientUnknown),
    (Mail, "553 5.1.8 <a@a.example>... Domain of sender address a@a.example does not exist", No, Policy),
    (Rcpt, "550 5.7.1 <b@b.example>... Relaying denied", No, Policy),
    (Mail, "452 4.4.5 Insufficient disk space; try again later", Later, Temporary),
    (Greeting, "421 4.3.2 Connection rate limit exceeded.", Later, RateLimited),
    (Rcpt, "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", No, Policy),
    (Rcpt, "550 sorry, no mailbox here by that name. (#5.1.1)", Gone, RecipientUnknown),
    (Message, "552 sorry, that message size exceeds my databytes limit (#5.3.4)", No, Content),
    (Rcpt, "550 5.1.1 User does not exist - <b@b.example>", Gone, RecipientUnknown),
    (
        Rcpt,
        "550 5.1.1 <b@b.example>: Recipient address rejected: Address does not exist",
        Gone,
        RecipientUnknown,
    ),
    // Our own replies, and texts that match no pattern.
    (Rcpt, "556 5.1.10 b.example accepts no mail: it has a null MX", Gone, RecipientUnknown),
    (Rcpt, "550 5.1.2 the domain b.example does not exist", No, Dns),
    (Rcpt, "550 5.4.4 the domain b.example has neither mail hosts nor addresses", No, Dns),
    (Rcpt, "550 5.7.10 REQUIRETLS cannot be met: no STARTTLS", No, Tls),
    (Rcpt, "550 5.7.30 REQUIRETLS cannot be met: mx.b.example does not offer it", No, Tls),
    (Rcpt, "550 no", No, Unclassified),
    (Message, "554 5.0.0 Service unavailable", No, Unclassified),
    (Mail, "500 5.5.2 unrecognized command", No, Protocol),
    (Rcpt, "552 too many", Later, MailboxFull),
    (Rcpt, "250 what", Later, Protocol),
];

/// Words of reports, with the code and the status that the reader gives them.
const REPORTS: &[Said] = &[
    (
        Rcpt,
        "550 5.4.1 <b@b.example>: Recipient address rejected: Access denied [BL2NAM02FT061.eop-nam02.prod.protection.outlook.com]",
        Gone,
        RecipientUnknown,
    ),
    (
        Rcpt,
        "550 5.7.1 <b@b.example>: Recipient address rejected: User b@b.example temporary locked. Please try again later!",
        No,
        RecipientInactive,
    ),
    (Rcpt, "550 User mailbox exceeds allowed size: b@b.example", No, MailboxFull),
    (Rcpt, "550 The number of messages in recipient's mailbox exceeded the local limit.", No, MailboxFull),
    (Rcpt, "550 could not be delivered because the user's mailfolder is full.", No, MailboxFull),
    (
        Rcpt,
        "550 Message rejected. Not enough storage space in user's mailbox to accept message.",
        No,
        MailboxFull,
    ),
    (Rcpt, "550 has been returned because the recipient is over disk quota", No, MailboxFull),
    (Rcpt, "550 This person's account is exceeding their quota.", No, MailboxFull),
    (Rcpt, "552 5.2.0 Quota violation for b@b.example", Later, MailboxFull),
    (Rcpt, "501 no access from mail server [192.0.2.1] which is an open relay.", No, Reputation),
    (Mail, "550 SC-004 Unfortunately, messages from 192.0.2.1 weren't sent.", No, Reputation),
    (Greeting, "421 ME Service refuse. Veuillez essayer plus tard. OFR_999 [999]", Later, Reputation),
    (Rcpt, "501 Connected to 192.0.2.1 but my name was rejected. Invalid domain name", No, Policy),
    (
        Rcpt,
        "550 5.7.1 <mx.a.example[192.0.2.1]>: Client host rejected: may not be mail exchanger",
        No,
        Policy,
    ),
    (Greeting, "554 mx.b.example ESMTP not accepting connections", Later, Policy),
    (Rcpt, "554 INVALID IP FOR SENDING MAIL OF DOMAIN a.example", No, Policy),
    (Rcpt, "550 5.1.0 <a@a.example> sender rejected. Refer to Error Codes section", No, Policy),
    (Message, "550 Your email to group b@b.example was rejected due to spam classification.", No, Content),
    (Rcpt, "550 vdelivermail: account is locked email bounced", Gone, RecipientInactive),
    (
        Rcpt,
        "525 5.7.13 <b@b.example>: Recipient address rejected: User account disabled",
        No,
        RecipientInactive,
    ),
    (Rcpt, "525 5.7.13 Disabled recipient address", No, RecipientInactive),
    (
        Rcpt,
        "550 5.5.0 Le compte du destinataire est bloque. The recipient account is blocked.",
        Gone,
        RecipientInactive,
    ),
    (Rcpt, "550 User bob (b@b.example) not listed in Domino Directory", Gone, RecipientUnknown),
    (Rcpt, "550 User bob not listed in public Name & Address Book", Gone, RecipientUnknown),
    (
        Rcpt,
        "550 Your message wasn't delivered because the address couldn't be found.",
        Gone,
        RecipientUnknown,
    ),
    (Rcpt, "550 Invalid final delivery userid: b@b.example", Gone, RecipientUnknown),
    (Rcpt, "550 <b@b.example>... User not exist", Gone, RecipientUnknown),
    (Rcpt, "550 Error: No valid recipients for this MM", Gone, RecipientUnknown),
];

#[test]
fn japanese_words_of_domino_have_a_class() {
    for text in ["ディレクトリのリストにありません", "bob は Domino ディレクトリには見つかりません"]
    {
        let reply = Reply { code: 550, enhanced: None, lines: vec![text.to_owned()] };
        assert_eq!(classify(Rcpt, &reply), RecipientUnknown, "{text}");
    }
}

fn reply(text: &str) -> Reply {
    let mut reader = ReplyReader::new();
    // A text that ends within a reply of several lines.
    let lines: Vec<&str> = text.split('|').collect();
    for (number, line) in lines.iter().enumerate() {
        let mark = if number + 1 == lines.len() { " " } else { "-" };
        reader.buffer().extend_from_slice([&line[..3], mark, &line[4..], "\r\n"].concat().as_bytes());
    }
    reader.next_reply().unwrap().unwrap()
}

#[test]
fn real_replies_have_a_class_and_only_unknown_addresses_are_suppressed() {
    let mut wrong = Vec::new();
    let all = [GMAIL, MICROSOFT, YAHOO, OTHER_PROVIDERS, FILTERS, SERVERS, REPORTS].concat();
    for (phase, text, end, class) in &all {
        let verdict = verdict_on_reply(*phase, &reply(text), true);
        let found = match verdict {
            Verdict::Bounced { suppress: true, .. } => Gone,
            Verdict::Bounced { .. } => No,
            Verdict::Deferred { .. } => Later,
            Verdict::Delivered => panic!("{text}"),
        };
        if (&found, verdict.class()) != (end, Some(*class)) {
            wrong.push(format!("{text}\n    {found:?} {:?}, not {end:?} {class:?}", verdict.class()));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    assert!(all.len() >= 150);
}

#[test]
fn every_line_of_the_table_can_be_reached() {
    let mut dead = Vec::new();
    for (at, (words, _)) in PATTERNS.iter().enumerate() {
        dead.extend(
            PATTERNS[..at]
                .iter()
                .filter(|(earlier, _)| matches_pattern(words, earlier))
                .map(|found| (words, found)),
        );
    }
    assert!(dead.is_empty(), "{dead:?}");
    assert!(PATTERNS.iter().all(|(words, _)| *words == words.to_ascii_lowercase()));
}

#[test]
fn only_the_beginning_of_a_long_reply_is_searched() {
    let mut long = reply("550 5.7.1 blacklisted");
    long.lines.extend(std::iter::repeat_n("é".repeat(4000), 20));
    assert_eq!(classify(Rcpt, &long), Reputation);
    assert!(search_text(&long).len() <= TEXT_OCTETS_MAX);
}

#[test]
fn addresses_in_a_reply_are_ignored() {
    for (text, kept) in [
        ("<ratelimit@b.test>: not yet", " : not yet"),
        ("no reply from rate-limit@b.test, yet", "no reply from  , yet"),
        ("recipients (too.many.connections@b.test:blocked)", "recipients ( :blocked)"),
        ("<\"too many connections\"@b.test> <\"a>\"@b.test> no", "  no"),
        ("\"too many connections\"@b.test: no", " : no"),
        ("\"over quota\" of a@b.test", "  over quota  of  "),
        ("if load < 10 > 5, wait", "if load   10 > 5, wait"),
        ("@", " "),
        ("<", " "),
    ] {
        let found = remove_addresses(text);
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&found), words(kept), "{text}: {found}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "[<>\"@ a.é]{0,40}") {
        assert!(!remove_addresses(&text).contains('@'));
    }
}
