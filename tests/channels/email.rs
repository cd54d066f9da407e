//! Mail: verified TLS or nothing, and never a decision.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tailkeep::verdict::approval::{Held, ToldState};

use crate::smtp::{Kind, Said, Smtp};
use crate::{SOON, World};

async fn world(smtp: &Smtp, kind: Kind, more: &str) -> World {
    let tls = if kind == Kind::Implicit {
        "implicit"
    } else {
        "starttls"
    };
    let channel = format!(
        "server = \"localhost:{}\"\ntls = \"{tls}\"\nfrom = \"Tailkeep <tailkeep@example.com>\"\n\
         to = [\"oncall@example.com\", \"lead@example.com\"]\nusername = \"tk\"\npassword = file(\"@/token\")\n{more}",
        smtp.address.port()
    );
    World::new(("email", &channel), "").await
}

fn trusting(smtp: &Smtp) -> String {
    format!(
        "ca_cert = <<-EOT\n{}EOT\n",
        smtp.certificate.replace("\r\n", "\n")
    )
}

async fn next(smtp: &mut Smtp) -> Said {
    tokio::time::timeout(SOON, smtp.said.recv())
        .await
        .expect("nobody came")
        .unwrap()
}

fn is(state: ToldState) -> impl Fn(&Held) -> bool {
    move |held| held.told.iter().any(|told| told.state == state)
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_by_verified_tls_and_leads_to_the_page() {
    for kind in [Kind::StartTls, Kind::Implicit, Kind::Busy] {
        let mut smtp = Smtp::start(kind).await;
        let world = world(&smtp, kind, &trusting(&smtp)).await;
        let asked = world.ask("tea\r\n.\r\nQUIT");
        world.held(is(ToldState::Sent)).await;
        if kind == Kind::Busy {
            assert!(
                !next(&mut smtp).await.iter().any(|line| line == "DATA"),
                "it was to come later"
            );
        }
        let said = next(&mut smtp).await;
        let at = |what: &str| said.iter().position(|line| line == what);
        if kind != Kind::Implicit {
            assert_eq!(
                at("TLS"),
                Some(2),
                "nothing before TLS but EHLO and STARTTLS: {said:?}"
            );
        }
        let login = STANDARD.encode(format!("\0tk\0{}", crate::TOKEN));
        assert!(at(&format!("AUTH PLAIN {login}")).is_some(), "{said:?}");
        for to in ["oncall", "lead"] {
            assert!(at(&format!("RCPT TO:<{to}@example.com>")).is_some(), "{said:?}");
        }
        let message = said[at("DATA").unwrap()..].join("\n");
        let link = format!("{}/#/approvals/1", crate::PAGE);
        for part in [
            "Subject: Approval 1: laptop asks https.api",
            "From: Tailkeep",
            &link,
            "tea\\u{d}",
            "nobody can by mail",
            "Read as:",
            "method: post",
            "Its last hour: nothing else",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        asked.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_verified_tls_nothing_is_sent() {
    let mut plain = Smtp::start(Kind::Plain).await;
    let stranger = Smtp::start(Kind::StartTls).await;
    let mut untrusted = Smtp::start(Kind::StartTls).await;
    for (smtp, more) in [(&mut plain, String::new()), (&mut untrusted, trusting(&stranger))] {
        let world = world(smtp, Kind::StartTls, &more).await;
        let asked = world.ask("tea");
        let failed = world.held(is(ToldState::Failed)).await;
        assert!(failed.told[0].problem.is_some());
        let said = next(smtp).await;
        let secret = said
            .iter()
            .any(|line| ["AUTH", "MAIL", "DATA"].iter().any(|word| line.starts_with(word)));
        assert!(!secret, "{said:?}");
        assert!(!asked.is_finished(), "the action is held as before");
        asked.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_not_tried_again() {
    let mut smtp = Smtp::start(Kind::Refuses).await;
    let world = world(&smtp, Kind::Refuses, &trusting(&smtp)).await;
    let asked = world.ask("tea");
    let failed = world.held(is(ToldState::Failed)).await;
    assert!(
        failed.told[0].problem.as_ref().unwrap().contains("not you"),
        "{:?}",
        failed.told
    );
    next(&mut smtp).await;
    assert!(smtp.said.try_recv().is_err(), "once");
    asked.abort();
}
