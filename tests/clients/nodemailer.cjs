// Sends three messages with nodemailer as an application does, and prints the bytes it sent. Settings: JSON on stdin.
const fs = require("fs");
const nodemailer = require("nodemailer");
const MailComposer = require("nodemailer/lib/mail-composer");

async function main() {
  const settings = JSON.parse(fs.readFileSync(0, "utf8"));
  const transport = nodemailer.createTransport({
    host: "localhost",
    port: settings.port,
    secure: settings.secure,
    requireTLS: true,
    auth: { user: settings.user, pass: settings.pass },
    tls: { ca: fs.readFileSync(settings.ca) },
    pool: true,
  });
  const domain = settings.from.split("@")[1];
  const bodies = {
    text: { subject: "Text by nodemailer", text: "Hello,\r\n.\r\n..two dots\r\ntrailing space \r\n\r\n" },
    utf8: { subject: "Grüße – 你好", text: "Größe: 5 µm, 你好, 🙂\r\n", html: "<p>Größe: 5 µm, 你好, 🙂</p>" },
    attachment: {
      subject: "Attachment by nodemailer",
      text: "See the attachment.",
      attachments: [{ filename: "zeros – ü.bin", content: Buffer.alloc(300000, "pillarbox ") }],
    },
  };
  const sent = [];
  for (const [kind, body] of Object.entries(bodies)) {
    const message_id = `${settings.client}-${kind}@${domain}`;
    const mail = {
      from: `Alice <${settings.from}>`,
      to: settings.to,
      messageId: `<${message_id}>`,
      date: new Date("2026-11-22T02:00:00Z"),
      baseBoundary: "boundary1",
      ...body,
    };
    const bytes = await new MailComposer(mail).compile().build();
    await transport.sendMail(mail);
    // SMTP needs complete lines, so nodemailer adds the last line end.
    const whole = bytes.subarray(-2).equals(Buffer.from("\r\n")) ? bytes : Buffer.concat([bytes, Buffer.from("\r\n")]);
    sent.push({ message_id, hex: whole.toString("hex") });
  }
  transport.close();
  process.stdout.write(JSON.stringify(sent));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
