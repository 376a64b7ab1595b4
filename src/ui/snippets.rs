//! Settings of mail clients, ready to paste, with host, port, user and secret of a key.

use super::Ui;
use crate::model::Environment;

/// The account that the settings are for.
#[derive(Debug, Clone)]
pub struct Account<'a> {
    /// The host name of the server.
    pub host: &'a str,
    /// The port with STARTTLS.
    pub port: u16,
    /// The user name: the id of the key.
    pub user: &'a str,
    /// The secret, or a placeholder for it.
    pub secret: &'a str,
    /// An address that the key may send from.
    pub sender: &'a str,
}

/// The settings of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    /// The name on the command line, like `postfix`.
    pub name: &'static str,
    /// The name of the client.
    pub title: &'static str,
    /// Where the text goes.
    pub place: &'static str,
    /// The text.
    pub text: String,
}

/// The names on the command line, in the order of [`all`].
pub const NAMES: [&str; 14] = [
    "curl",
    "swaks",
    "python",
    "postfix",
    "exim",
    "msmtp",
    "django",
    "nodemailer",
    "laravel",
    "phpmailer",
    "rails",
    "go",
    "spring",
    "wordpress",
];

/// The settings of every client.
pub fn all(account: &Account<'_>) -> Vec<Snippet> {
    let Account { host, port, user, secret, sender } = account;
    let snippet = |name, title, place, text: String| Snippet { name, title, place, text };
    vec![
        snippet(
            "curl",
            "curl",
            "a shell",
            format!(
                "printf 'From: {sender}\\r\\nTo: someone@example.com\\r\\nSubject: Hello\\r\\n\\r\\nHi.\\r\\n' |\n\
             curl --ssl-reqd --url smtp://{host}:{port} --user '{user}:{secret}' \\\n\
             \x20 --mail-from {sender} --mail-rcpt someone@example.com --upload-file -\n"
            ),
        ),
        snippet("swaks", "swaks", "a shell", swaks(account)),
        snippet(
            "python",
            "Python",
            "a script",
            format!(
                "import smtplib, ssl\nfrom email.message import EmailMessage\n\n\
             mail = EmailMessage()\nmail[\"From\"], mail[\"To\"], mail[\"Subject\"] = \"{sender}\", \"someone@example.com\", \"Hello\"\n\
             mail.set_content(\"Hi.\")\n\
             with smtplib.SMTP(\"{host}\", {port}) as smtp:\n\
             \x20   smtp.starttls(context=ssl.create_default_context())\n\
             \x20   smtp.login(\"{user}\", \"{secret}\")\n\
             \x20   smtp.send_message(mail)\n"
            ),
        ),
        snippet(
            "postfix",
            "Postfix",
            "/etc/postfix/main.cf, then the two commands",
            format!(
                "relayhost = [{host}]:{port}\nsmtp_tls_security_level = secure\nsmtp_sasl_auth_enable = yes\n\
             smtp_sasl_security_options = noanonymous\nsmtp_sasl_password_maps = lmdb:/etc/postfix/pillarbox\n\n\
             # install -m 600 /dev/null /etc/postfix/pillarbox\n\
             # echo '[{host}]:{port} {user}:{secret}' > /etc/postfix/pillarbox && postmap lmdb:/etc/postfix/pillarbox\n"
            ),
        ),
        snippet(
            "exim",
            "Exim",
            "the sections routers, transports and authenticators",
            format!(
                "# routers\npillarbox:\n  driver = manualroute\n  domains = ! +local_domains\n  transport = pillarbox_smtp\n  route_list = * {host}::{port}\n\n\
             # transports\npillarbox_smtp:\n  driver = smtp\n  port = {port}\n  hosts_require_auth = *\n  hosts_require_tls = *\n  tls_verify_certificates = system\n\n\
             # authenticators\npillarbox_plain:\n  driver = plaintext\n  public_name = PLAIN\n  client_send = ^{user}^{secret}\n"
            ),
        ),
        snippet(
            "msmtp",
            "msmtp",
            "~/.msmtprc, mode 0600",
            format!(
                "account pillarbox\nhost {host}\nport {port}\ntls on\ntls_starttls on\ntls_trust_file system\nauth plain\n\
             user {user}\npassword {secret}\nfrom {sender}\naccount default : pillarbox\n"
            ),
        ),
        snippet(
            "django",
            "Django",
            "settings.py",
            format!(
                "EMAIL_BACKEND = \"django.core.mail.backends.smtp.EmailBackend\"\nEMAIL_HOST = \"{host}\"\nEMAIL_PORT = {port}\n\
             EMAIL_USE_TLS = True\nEMAIL_HOST_USER = \"{user}\"\nEMAIL_HOST_PASSWORD = \"{secret}\"\nDEFAULT_FROM_EMAIL = \"{sender}\"\n"
            ),
        ),
        snippet(
            "nodemailer",
            "Nodemailer",
            "a script",
            format!(
                "const nodemailer = require(\"nodemailer\");\n\
             const transport = nodemailer.createTransport({{\n  host: \"{host}\", port: {port}, secure: false, requireTLS: true,\n\
             \x20 auth: {{ user: \"{user}\", pass: \"{secret}\" }},\n}});\n\
             transport.sendMail({{ from: \"{sender}\", to: \"someone@example.com\", subject: \"Hello\", text: \"Hi.\" }}).then(console.log);\n"
            ),
        ),
        snippet(
            "laravel",
            "Laravel",
            ".env",
            format!(
                "MAIL_MAILER=smtp\nMAIL_HOST={host}\nMAIL_PORT={port}\nMAIL_USERNAME={user}\nMAIL_PASSWORD={secret}\nMAIL_ENCRYPTION=tls\nMAIL_FROM_ADDRESS={sender}\n"
            ),
        ),
        snippet(
            "phpmailer",
            "PHPMailer",
            "a script",
            format!(
                "$mail = new PHPMailer\\PHPMailer\\PHPMailer(true);\n$mail->isSMTP();\n$mail->Host = '{host}';\n$mail->Port = {port};\n\
             $mail->SMTPSecure = 'tls';\n$mail->SMTPAuth = true;\n$mail->Username = '{user}';\n$mail->Password = '{secret}';\n\
             $mail->setFrom('{sender}');\n$mail->addAddress('someone@example.com');\n$mail->Subject = 'Hello';\n$mail->Body = 'Hi.';\n$mail->send();\n"
            ),
        ),
        snippet(
            "rails",
            "Rails",
            "config/environments/production.rb",
            format!(
                "config.action_mailer.delivery_method = :smtp\nconfig.action_mailer.smtp_settings = {{\n  address: \"{host}\", port: {port},\n\
             \x20 user_name: \"{user}\", password: \"{secret}\",\n  authentication: :plain, enable_starttls: true,\n}}\n"
            ),
        ),
        snippet(
            "go",
            "Go",
            "a program",
            format!(
                "package main\n\nimport \"net/smtp\"\n\nfunc main() {{\n\tauth := smtp.PlainAuth(\"\", \"{user}\", \"{secret}\", \"{host}\")\n\
             \tmail := []byte(\"From: {sender}\\r\\nTo: someone@example.com\\r\\nSubject: Hello\\r\\n\\r\\nHi.\\r\\n\")\n\
             \tif err := smtp.SendMail(\"{host}:{port}\", auth, \"{sender}\", []string{{\"someone@example.com\"}}, mail); err != nil {{\n\t\tpanic(err)\n\t}}\n}}\n"
            ),
        ),
        snippet(
            "spring",
            "Spring Boot",
            "application.properties",
            format!(
                "spring.mail.host={host}\nspring.mail.port={port}\nspring.mail.username={user}\nspring.mail.password={secret}\n\
             spring.mail.properties.mail.smtp.auth=true\nspring.mail.properties.mail.smtp.starttls.required=true\n"
            ),
        ),
        snippet(
            "wordpress",
            "WordPress",
            "a plugin or functions.php",
            format!(
                "add_action('phpmailer_init', function ($mail) {{\n  $mail->isSMTP();\n  $mail->Host = '{host}';\n  $mail->Port = {port};\n\
             \x20 $mail->SMTPSecure = 'tls';\n  $mail->SMTPAuth = true;\n  $mail->Username = '{user}';\n  $mail->Password = '{secret}';\n\
             \x20 $mail->From = '{sender}';\n}});\n"
            ),
        ),
    ]
}

fn swaks(account: &Account<'_>) -> String {
    let Account { host, port, user, secret, sender } = account;
    format!(
        "swaks --server {host}:{port} --tls --tls-verify --auth PLAIN \\\n\
         \x20 --auth-user {user} --auth-password '{secret}' \\\n\
         \x20 --from {sender} --to someone@example.com --header 'Subject: Hello'\n"
    )
}

impl Ui {
    /// A command that sends a message with a key of an environment.
    pub fn sample(&self, environment: Environment) -> String {
        let host = self.hostname.as_str();
        let (secret, sender) = match environment {
            Environment::Live => ("pb_live_…", "hello@your-domain.example".to_owned()),
            Environment::Test => ("pb_test_…", format!("hello@sandbox.{host}")),
        };
        swaks(&Account { host, port: self.submission_port(), user: "key_…", secret, sender: &sender })
    }
}
