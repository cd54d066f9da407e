//! Placeholders become secrets towards the endpoint, and secrets placeholders on the way back.

use crate::agent::{Raw, ask, curl};
use crate::server::{BOTH, Service, Speaks, mint};
use crate::world::{API, World};

/// The service's policy with credentials of every kind, held by the profile.
fn policy(service: &Service, held: &str, rules: &str) -> String {
    let credentials = r#"
credential "bearer_token" "pat" {
  endpoint = https.api
}
credential "header_token" "key" {
  endpoint = https.api
  header   = "x-api-key"
}
credential "basic_auth" "login" {
  endpoint = https.api
  username = "bot"
}
credential "cookie_token" "session" {
  endpoint    = https.api
  cookie_name = "sid"
}
credential "query_token" "param" {
  endpoint  = https.api
  parameter = "token"
}
credential "bearer_token" "unset" {
  endpoint = https.api
}
credential "bearer_token" "foreign" {
  endpoint = https.elsewhere
}
endpoint "https" "elsewhere" {
  hosts = ["elsewhere.test"]
}
"#;
    let policy = service.policy(&format!("{credentials}{rules}"));
    policy.replacen(
        "endpoints = [https.api]",
        &format!("endpoints = [https.api]\n  credentials = [{held}]"),
        1,
    )
}

const ALL: &str = r#"
    { placeholder = "{{pat}}", credential = bearer_token.pat },
    { placeholder = "{{key}}", credential = header_token.key },
    { placeholder = "{{login}}", credential = basic_auth.login },
    { placeholder = "{{session}}", credential = cookie_token.session },
    { placeholder = "{{param}}", credential = query_token.param },
    { placeholder = "{{unset}}", credential = bearer_token.unset },
    bearer_token.foreign,
"#;

#[tokio::test]
async fn a_placeholder_is_swapped_in_its_slot_and_scrubbed_from_the_answer() {
    let service = Service::start(BOTH).await;
    let world = World::new(&policy(&service, ALL, crate::server::ALLOW));
    let gateway = world.listen(API).await;
    let cases: [(&[&str], &str, &str); 5] = [
        (
            &["-H", "Authorization: Bearer {{pat}}"],
            "authorization",
            "Bearer s3cr3t-of-pat",
        ),
        (&["-H", "X-Api-Key: {{key}}"], "x-api-key", "s3cr3t-of-key"),
        (
            &["-u", "bot:{{login}}"],
            "authorization",
            "Basic Ym90OnMzY3IzdC1vZi1sb2dpbg==",
        ),
        (
            &["-H", "Cookie: a=b; sid={{session}}"],
            "cookie",
            "a=b; sid=s3cr3t-of-session",
        ),
        (&["-G", "--data-urlencode", "token={{param}}"], "", ""),
    ];
    for flag in ["--http2", "--http1.1"] {
        for (args, name, value) in cases {
            let args = [args, &[flag, "-i", "https://api.test/headers"]].concat();
            let got = curl(&world, gateway, &args).await;
            assert_eq!(got.status, 200, "{args:?} {}", got.text());
            let seen = service.seen().pop().unwrap();
            if !name.is_empty() {
                assert_eq!(seen.headers[name], value, "{args:?}");
                assert!(
                    got.text().contains("{{"),
                    "the reflected secret is put back: {}",
                    got.text()
                );
            }
            let text = got.text();
            assert!(
                !text.contains("s3cr3t") && !text.contains("Ym90OnMzY3IzdC1vZi1sb2dpbg"),
                "{text}"
            );
        }
    }
    let kept = std::fs::read(world.folder.path().join("audit.db")).unwrap();
    world.records().await;
    assert!(crate::agent::find(&kept, b"s3cr3t-of").is_none());
    assert!(crate::agent::find(&kept, b"Ym90OnMzY3IzdC1vZi1sb2dpbg").is_none());
}

#[tokio::test]
async fn a_query_secret_reaches_the_query_alone() {
    let service = Service::start(BOTH).await;
    let world = World::new(&policy(&service, ALL, crate::server::ALLOW));
    let gateway = world.listen(API).await;
    let got = curl(
        &world,
        gateway,
        &["https://api.test/x?a=1&token=%7B%7Bparam%7D%7D"],
    )
    .await;
    assert_eq!(got.status, 200, "{}", got.text());
    let query = service.seen().pop().unwrap().query;
    assert_eq!(query.as_deref(), Some("a=1&token=s3cr3t%2Dof%2Dparam"));
}

#[tokio::test]
async fn a_placeholder_elsewhere_is_refused_and_nothing_leaves() {
    let service = Service::start(BOTH).await;
    let rules = [crate::server::ALLOW, "", ""].concat();
    let world = World::new(&policy(&service, ALL, &rules));
    let gateway = world.listen(API).await;
    let cases: [&[&str]; 6] = [
        &["-H", "X-Other: {{pat}}"],
        &["-H", "Authorization: Bearer {{foreign}}"],
        &["-H", "Authorization: Bearer {{unset}}"],
        &["-H", "Authorization: Bearer {{pat}}", "-H", "X-Api-Key: {{key}}"],
        &["-H", "Authorization: Bearer {{pat}}", "-d", "comment={{pat}}"],
        &["-d", "comment={{key}}"],
    ];
    for flag in ["--http2", "--http1.1"] {
        for args in cases {
            let args = [args, &[flag, "https://api.test/echo"]].concat();
            let got = curl(&world, gateway, &args).await;
            assert_eq!(got.status, 403, "{args:?}: {} {}", got.text(), got.errors);
            assert_eq!(got.json()["error"]["cause"], "credential", "{args:?}");
        }
        let path = curl(&world, gateway, &[flag, "-g", "https://api.test/%7B%7Bpat%7D%7D"]).await;
        assert_eq!(path.status, 403);
    }
    // The streamed body's connection was cut before the placeholder was whole.
    for seen in service.seen() {
        assert_eq!(seen.body_sha256, [0xff; 32], "{}", seen.line);
    }
}

#[tokio::test]
async fn a_placeholder_over_the_seams_of_a_streamed_body_is_found() {
    let service = Service::start(BOTH).await;
    let world = World::new(&policy(&service, ALL, crate::server::ALLOW));
    let gateway = world.listen(API).await;
    let request = "POST /echo HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\na={\r\n3\r\n{pa\r\n3\r\nt}}\r\n0\r\n\r\n";
    let answer = ask(gateway, request).await.unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(
        service
            .seen()
            .iter()
            .all(|seen| !seen.body_start.ends_with(b"}}"))
    );
}

#[tokio::test]
async fn the_only_credential_is_used_without_a_placeholder_and_never_bare() {
    let service = Service::start(BOTH).await;
    for (held, status) in [("bearer_token.pat", 200), ("bearer_token.unset", 403)] {
        let world = World::new(&policy(&service, held, crate::server::ALLOW));
        let gateway = world.listen(API).await;
        let count = service.seen().len();
        let got = curl(&world, gateway, &["https://api.test/headers"]).await;
        assert_eq!(got.status, status, "{held}: {}", got.text());
        if status == 200 {
            assert_eq!(
                service.seen().pop().unwrap().headers["authorization"],
                "Bearer s3cr3t-of-pat"
            );
        } else {
            assert_eq!(service.seen().len(), count, "never sent bare");
        }
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_its_connection_not_shared() {
    let minted = mint();
    let service = Service::start_with(Speaks::Mutual, &minted).await;
    let mutual = "credential \"mtls_credential\" \"cert\" {\n endpoint = https.api\n}\n";
    let policy = service.policy(&format!("{mutual}{}", crate::server::ALLOW));
    let with = policy.replacen(
        "endpoints = [https.api]",
        "credentials = [mtls_credential.cert]",
        1,
    );
    let world = World::new(&with);
    world.set("cert", "cert", &minted.chain);
    world.set("cert", "key", &minted.key);
    let gateway = world.listen(API).await;
    for _ in 0..2 {
        let got = curl(&world, gateway, &["--http1.1", "https://api.test/1k"]).await;
        assert_eq!(got.status, 200, "{}", got.text());
    }
    assert!(service.seen().iter().all(|seen| seen.client_certificate));
    assert_eq!(
        service.connections.load(std::sync::atomic::Ordering::SeqCst),
        1,
        "kept alive"
    );
    // Another certificate of the same credential is another connection.
    world.set("cert", "cert", &format!("{}\n", minted.chain));
    assert_eq!(
        curl(&world, gateway, &["--http1.1", "https://api.test/1k"])
            .await
            .status,
        200
    );
    assert_eq!(service.connections.load(std::sync::atomic::Ordering::SeqCst), 2);
    // Without the credential nothing of those is used.
    world.reload(&policy);
    assert_eq!(
        curl(&world, gateway, &["--http1.1", "https://api.test/1k"])
            .await
            .status,
        502
    );
    world.set("cert", "key", "not PEM");
    world.reload(&with);
    assert_eq!(
        curl(&world, gateway, &["--http1.1", "https://api.test/1k"])
            .await
            .status,
        403
    );
}

/// An upstream that writes what it was sent into its reason phrase.
async fn tells_in_its_reason() -> std::net::SocketAddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8192];
            let length = stream.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            let secret = head.lines().find(|line| line.contains("s3cr3t")).unwrap_or("?");
            let answer = format!("HTTP/1.1 403 no {secret}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_reason_phrase_tells_no_secret() {
    let service = Service::start(BOTH).await;
    let address = tells_in_its_reason().await;
    let policy = format!(
        "endpoint \"http\" \"api\" {{\n hosts = [\"api.test:80\"]\n upstream = \"{address}\"\n}}\n\
         profile \"dev\" {{\n peers = [\"laptop\"]\n endpoints = [http.api]\n credentials = [bearer_token.pat]\n}}\n\
         credential \"bearer_token\" \"pat\" {{\n endpoint = http.api\n}}\n\
         rule \"all\" {{\n endpoint = http.api\n verdict = \"allow\"\n}}"
    );
    let world = World::new(&policy);
    let gateway = world
        .listen(crate::world::Dialled {
            endpoint: "http.api",
            name: Some("api.test"),
            destination: "10.78.0.9:80",
        })
        .await;
    let answer = ask(gateway, "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(answer.status, 403);
    assert!(!answer.head.contains("s3cr3t"), "{}", answer.head);
    drop(service);
}

#[tokio::test]
async fn a_secret_in_an_upgraded_stream_ends_it() {
    let service = Service::start(BOTH).await;
    let world = World::new(&policy(&service, "bearer_token.pat", crate::server::ALLOW));
    let gateway = world.listen(API).await;
    let mut raw = Raw::connect(gateway).await;
    raw.say(
        "GET /socket HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\nAuthorization: Bearer {{pat}}\r\n\r\n",
    )
    .await;
    assert_eq!(raw.hear().await.unwrap().status, 101);
    assert!(!service.seen()[0].headers.contains_key("sec-websocket-extensions"));
    // What ends as the secret begins is held back for a moment, and then goes on.
    raw.say("hello s3c").await;
    assert!(raw.until(b"hello s3c").await);
    raw.say("told s3cr3t-of-pat and more").await;
    let rest = String::from_utf8_lossy(&raw.rest().await).into_owned();
    assert!(!rest.contains("s3cr3t") && !rest.contains("more"), "{rest}");
    crate::world::until("the connection ends", || world.open() == 0).await;
    let story = world.story().await.join("\n");
    assert!(story.contains("ended: a secret stood in the stream"), "{story}");
}
