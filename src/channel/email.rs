//! E-mail: a message that says what is asked, with a link to the page.
//!
//! Nobody can decide by mail: whoever reads or forwards one has proved nothing. It is plain text, so nothing
//! in it is markup; the library writes the headers, of which the subject holds names and nothing of the action.
//! Without a verified TLS nothing is sent, neither the message nor the password.

use std::time::Duration;

use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};

use super::notice::Notice;
use super::post::Failure;
use crate::policy::Mail;

/// Bytes of what is run that a mail shows; what is longer is on the page alone.
pub const SHOWN_BYTES_MAX: usize = 64 << 10;
/// For one command of the mail server.
const COMMAND_TIME: Duration = Duration::from_secs(10);

/// Sends one mail.
///
/// # Errors
/// It was not taken; [`Failure`] says whether it may be later.
pub async fn send(mail: &Mail, password: Option<&str>, notice: &Notice) -> Result<(), Failure> {
    let message = message(mail, notice).map_err(Failure::Final)?;
    let tls = tls(mail).map_err(|error| Failure::Final(error.to_string()))?;
    let tls = if mail.implicit {
        Tls::Wrapper(tls)
    } else {
        Tls::Required(tls)
    };
    let mut server = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&mail.host)
        .port(mail.port)
        .tls(tls)
        .timeout(Some(COMMAND_TIME));
    if let (Some(username), Some(password)) = (&mail.username, password) {
        server = server.credentials(Credentials::new(username.clone(), password.to_owned()));
    }
    match server.build().send(message).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_permanent() || error.is_tls() => Err(Failure::Final(said(&error))),
        Err(error) => Err(Failure::Later(said(&error), None)),
    }
}

/// An error with what lies beneath it.
fn said(error: &lettre::transport::smtp::Error) -> String {
    let mut text = error.to_string();
    let mut inner = std::error::Error::source(error);
    while let Some(cause) = inner {
        text = format!("{text}: {cause}");
        inner = cause.source();
    }
    super::visible::printable(&text)
}

fn tls(mail: &Mail) -> Result<TlsParameters, lettre::transport::smtp::Error> {
    let mut tls = TlsParameters::builder(mail.host.clone());
    if let Some(pem) = &mail.ca_cert {
        tls = tls.certificate_store(CertificateStore::None);
        tls = tls.add_root_certificate(Certificate::from_pem(pem.as_bytes())?);
    }
    tls.build()
}

fn message(mail: &Mail, notice: &Notice) -> Result<Message, String> {
    let address = |text: &String| {
        let parsed: Result<Mailbox, _> = text.parse();
        parsed.map_err(|error| format!("{text} is no address: {error}"))
    };
    let mut message = Message::builder()
        .from(address(&mail.from)?)
        .subject(notice.title.clone())
        .header(ContentType::TEXT_PLAIN);
    for to in &mail.to {
        message = message.to(address(to)?);
    }
    let shown = match notice.action.len() <= SHOWN_BYTES_MAX {
        true => notice.quoted(),
        false => "It is too long for a mail; the page shows all of it.".to_owned(),
    };
    let mut text = format!(
        "{}\n\nDecide on the page; nobody can by mail:\n{}\n\n{}\n\nWhat will happen, in its agent's words behind each |:\n\n{shown}\n",
        notice.title,
        notice.link,
        notice.about(),
    );
    if !notice.does.is_empty() && notice.does.len() <= SHOWN_BYTES_MAX {
        text.push_str(&format!("\nWhat it would do:\n\n{}\n", notice.does));
    }
    for (head, lines) in [("Read as", &notice.facts), ("Who asks", &notice.asker)] {
        if !lines.is_empty() {
            text.push_str(&format!("\n{head}:\n\n{}\n", lines.join("\n")));
        }
    }
    message.body(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::approval::QuestionState;

    fn mail() -> Mail {
        Mail {
            host: "smtp.test".to_owned(),
            port: 587,
            implicit: false,
            ca_cert: None,
            username: None,
            from: "Tailkeep <tailkeep@example.com>".to_owned(),
            to: vec!["oncall@example.com".to_owned()],
        }
    }

    fn notice(action: String) -> Notice {
        Notice {
            id: 7,
            title: "Approval 7: lap\r\nBcc: eve@example.com\r\n\r\n asks https.api".to_owned(),
            about: vec![("Agent", "laptop".to_owned())],
            action,
            does: String::new(),
            facts: vec!["method: post".to_owned()],
            asker: Vec::new(),
            link: "https://page/#/approvals/7".to_owned(),
            state: QuestionState::Pending,
            is_escalated: false,
            said: String::new(),
        }
    }

    #[test]
    fn no_name_makes_a_header_and_no_action_ends_the_message() {
        let message = message(&mail(), &notice("x\r\n.\r\nBcc: eve@example.com".to_owned())).unwrap();
        let text = String::from_utf8(message.formatted()).unwrap();
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            !head
                .lines()
                .any(|line| line.to_ascii_lowercase().starts_with("bcc")),
            "{head}"
        );
        assert!(head.contains("Content-Type: text/plain; charset=utf-8"), "{head}");
        assert_eq!(message.envelope().to().len(), 1);
        let wrong = Mail {
            from: "nobody".to_owned(),
            ..mail()
        };
        assert!(super::message(&wrong, &notice(String::new())).is_err());
    }

    #[test]
    fn a_long_action_is_on_the_page_alone() {
        for (length, shown) in [(SHOWN_BYTES_MAX, true), (SHOWN_BYTES_MAX + 1, false)] {
            let message = message(&mail(), &notice("x".repeat(length))).unwrap();
            let text = String::from_utf8(message.formatted()).unwrap();
            assert_eq!(text.contains("xxxxxxxx"), shown);
            assert_eq!(text.contains("the page shows all of it"), !shown);
        }
    }
}
