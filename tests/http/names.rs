//! SNI, `Host` and `:authority` must name what was dialled; what is ambiguous goes nowhere.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::Empty;
use tailkeep::bad_input::{Reader, counted};

use crate::agent::{ask, curl, http2};
use crate::server::{BOTH, Service};
use crate::world::{API, Dialled, World};

#[tokio::test]
async fn ambiguous_and_misdirected_requests_are_refused() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: api.test\r\nHost: api.test\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: api.test:444\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: api.test@evil.test\r\n\r\n", 400),
        ("GET http://evil.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n", 400),
        ("GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", 421),
        ("GET /a/../b HTTP/1.1\r\nHost: api.test\r\n\r\n", 400),
        ("GET //b HTTP/1.1\r\nHost: api.test\r\n\r\n", 400),
        ("GET /%2e%2e/b HTTP/1.1\r\nHost: api.test\r\n\r\n", 400),
        ("GET /a%2Fb HTTP/1.1\r\nHost: api.test\r\n\r\n", 400),
        (
            "GET / HTTP/1.1\r\nHost: api.test\r\nConnection: x-rule\r\n\r\n",
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: api.test\r\nX-HTTP-Method-Override: DELETE\r\n\r\n",
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: api.test\r\nX_HTTP_Method_Override: DELETE\r\n\r\n",
            400,
        ),
        ("CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n", 400),
        ("TRACE / HTTP/1.1\r\nHost: api.test\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : api.test\r\n\r\n", 400),
        (
            "GET / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked, x\r\n\r\n",
            400,
        ),
        ("NONSENSE\r\n\r\n", 400),
    ];
    for (request, status) in cases {
        let answer = ask(gateway, request)
            .await
            .unwrap_or_else(|| panic!("{request:?}: hung up"));
        assert_eq!(answer.status, status, "{request:?}: {}", answer.text());
    }
    assert_eq!(service.lines(), [""; 0]);
    for (reason, least) in [
        ("misdirected", 3),
        ("encoded_separator", 1),
        ("many_hosts", 1),
        ("head", 3),
    ] {
        let count = counted(Reader::Http, reason);
        assert!(count >= least, "{reason}: {count}");
    }
}

#[tokio::test]
async fn an_underscore_stands_in_the_name_of_a_slot_alone() {
    let service = Service::start(BOTH).await;
    let slot = "credential \"header_token\" \"key\" {\n endpoint = https.api\n header = \"Api_Key\"\n}\n";
    let policy = format!("{}{slot}", service.open_policy());
    let world = World::new(&policy.replace(
        "endpoints = [https.api]",
        "endpoints = [https.api]\n credentials = [header_token.key]",
    ));
    let gateway = world.listen(API).await;
    for (name, status) in [("Api_Key", 200), ("api_other", 400)] {
        let request = format!("GET /1k HTTP/1.1\r\nHost: api.test\r\n{name}: {{{{key}}}}\r\n\r\n");
        assert_eq!(ask(gateway, &request).await.unwrap().status, status, "{name}");
    }
    assert_eq!(service.seen()[0].headers["api_key"], "s3cr3t-of-key");
}

#[tokio::test]
async fn what_is_spelled_otherwise_is_sent_on_in_one_spelling() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    // A length beside chunks, which hyper settles; bare line feeds; an absolute form.
    let cases = [
        "POST /echo HTTP/1.1\r\nHost: api.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "GET /1k HTTP/1.1\nHost: api.test\n\n",
        "GET http://API.test./1k HTTP/1.1\r\nHost: API.test.\r\n\r\n",
        "GET /1k HTTP/1.1\r\nHost: api.test:443\r\n\r\n",
    ];
    for request in cases {
        let answer = ask(gateway, request).await.unwrap();
        assert_eq!(answer.status, 200, "{request:?}");
    }
    let seen = service.seen();
    assert_eq!(seen[0].body_start, b"hello");
    assert!(!seen[0].headers.contains_key("content-length"));
    assert_eq!(seen[2].line, "GET /1k HTTP/1.1");
    let padded = "POST /echo HTTP/1.1\r\nHost: api.test\r\nContent-Length: 010\r\n\r\n0123456789";
    assert_eq!(ask(gateway, padded).await.unwrap().status, 200);
    assert_eq!(service.seen()[4].headers["content-length"], "10");
}

#[tokio::test]
async fn an_authority_of_http2_must_be_the_one_that_was_dialled() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let mut sender = http2::<Empty<Bytes>>(gateway).await;
    for (uri, host, status) in [
        ("https://api.test/1k", None, 200),
        ("https://evil.test/1k", None, 421),
        ("https://api.test/1k", Some("evil.test"), 400),
        ("https://api.test:9/1k", None, 421),
        ("https://api.test/1k", None, 200),
    ] {
        let mut request = Request::builder().uri(uri).version(Version::HTTP_2);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let request = request.body(Empty::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), status, "{uri} {host:?}");
    }
}

#[tokio::test]
async fn a_wrong_sni_is_refused_by_tls() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let to = format!("::127.0.0.1:{}", gateway.port());
    let output = tokio::process::Command::new("curl")
        .args([
            "-sS",
            "--cacert",
            &world.ca(),
            "--connect-to",
            &to,
            "https://evil.test/",
        ])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(35));
    assert!(String::from_utf8_lossy(&output.stderr).contains("unrecognized name"));
    // A name that the same endpoint claims by its wildcard is served as that name.
    let got = curl(
        &world,
        gateway,
        &["--http1.1", "-k", "https://a.cdn.test/headers"],
    )
    .await;
    assert_eq!(
        got.status,
        502,
        "its certificate is not for that name: {}",
        got.text()
    );
}

#[tokio::test]
async fn a_name_under_a_wildcard_is_no_way_round_the_endpoint_that_claims_it() {
    let service = Service::start(BOTH).await;
    let strict = format!(
        "{}endpoint \"https\" \"strict\" {{\n hosts = [\"strict.cdn.test\"]\n upstream = \"{}\"\n ca_cert = <<EOT\n{}EOT\n}}\n",
        service.open_policy(),
        service.address,
        service.ca
    );
    let strict = strict.replace("[https.api]", "[https.api, https.strict]");
    let gateway = |policy: String| async move {
        let world = World::new(&policy);
        let by_name = Dialled {
            name: Some("www.cdn.test"),
            ..API
        };
        let gateway = world.listen(by_name).await;
        (world, gateway)
    };
    let get = "GET /1k HTTP/1.1\r\nHost: strict.cdn.test\r\n\r\n";
    let (world, address) = gateway(strict.clone()).await;
    let url = "https://strict.cdn.test/1k";
    for version in ["--http1.1", "--http2"] {
        let to = format!("::127.0.0.1:{}", address.port());
        let output = tokio::process::Command::new("curl")
            .args(["-sS", version, "--cacert", &world.ca(), "--connect-to", &to, url])
            .output()
            .await
            .unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("unrecognized name"));
    }
    assert_eq!(ask(address, get).await.unwrap().status, 421);
    assert_eq!(service.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
    // A connection that TLS settled on the name, before another endpoint came to claim it.
    let (world, address) = gateway(service.open_policy()).await;
    let mut sender = crate::agent::tls(&world, address, "strict.cdn.test").await;
    world.reload(&strict);
    let request = Request::get("/1k").header("host", "strict.cdn.test");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 421);
}

#[tokio::test]
async fn an_address_is_dialled_by_address_and_may_be_called_by_a_claimed_name() {
    let service = Service::start(BOTH).await;
    let policy = format!(
        "endpoint \"https\" \"ip\" {{\n hosts = [\"127.0.0.1:{port}\", \"api.test:{port}\"]\n ca_cert = <<EOT\n{}EOT\n}}\n\
         profile \"dev\" {{\n peers = [\"laptop\"]\n endpoints = [https.ip]\n}}\nrule \"all\" {{\n endpoint = https.ip\n verdict = \"allow\"\n}}",
        service.ca,
        port = service.address.port(),
    );
    let world = World::new(&policy);
    let destination: &'static str = Box::leak(service.address.to_string().into_boxed_str());
    let gateway = world
        .listen(Dialled {
            endpoint: "https.ip",
            name: None,
            destination,
        })
        .await;
    let by_address = format!("https://127.0.0.1:{}/1k", service.address.port());
    let by_name = format!("https://api.test:{}/1k", service.address.port());
    for url in [&by_address, &by_name] {
        let got = curl(&world, gateway, &[url]).await;
        assert_eq!((got.status, got.body.len()), (200, 1024), "{url}: {}", got.errors);
    }
    let other = format!(
        "GET / HTTP/1.1\r\nHost: evil.test:{}\r\n\r\n",
        service.address.port()
    );
    assert_eq!(ask(gateway, &other).await.unwrap().status, 421);
}
