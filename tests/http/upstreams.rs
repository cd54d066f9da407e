//! Servers that are not who they should be, are away, or hang up.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::Ordering;

use tailkeep::upstream::pool::{RESPONSE_HEAD_BYTES_MAX, RESPONSE_HEADERS_MAX};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::agent::{Raw, ask, curl, curls};
use crate::server::{BOTH, Minted, ONLY_HTTP1, Service, Speaks, mint};
use crate::world::{API, Dialled, SOON, World, until};

const GET: &str = "GET /1k HTTP/1.1\r\nHost: api.test\r\n\r\n";

#[tokio::test]
async fn a_certificate_of_another_ca_or_name_is_refused() {
    let service = Service::start(BOTH).await;
    let trusted = service.open_policy();
    let other = trusted.replace(&service.ca, &mint().ca);
    let system = trusted.replace(&format!("ca_cert = <<EOT\n{}EOT\n", service.ca), "");
    let renamed = trusted.replace("\"api.test\"", "\"wrong.test\"");
    for (policy, name, status) in [
        (&trusted, "api.test", 200),
        (&other, "api.test", 502),
        (&system, "api.test", 502),
        (&renamed, "wrong.test", 502),
    ] {
        let world = World::new(policy);
        let mut dialled = API;
        dialled.name = Some(name);
        let gateway = world.listen(dialled).await;
        let answer = ask(gateway, &GET.replace("api.test", name)).await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
        // What went wrong behind the gateway is not told.
        if status == 502 {
            let text = answer.text();
            assert_eq!(
                text,
                "{\"error\":{\"code\":\"upstream\",\"reason\":\"the service behind the gateway failed\"}}\n"
            );
        }
    }
}

#[tokio::test]
async fn without_a_ca_cert_the_systems_roots_count() {
    // Which they are is said by the environment, and a process that runs has one: so another one of these is run.
    let Some(folder) = std::env::var_os("TEST_OF_ROOTS").map(PathBuf::from) else {
        let folder = crate::folder::Folder::new();
        let Minted { ca, chain, key } = mint();
        for (name, text) in [("ca", &ca), ("chain", &chain), ("key", &key)] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let own = std::env::current_exe().unwrap();
        let ran = tokio::process::Command::new(own)
            .args(["--exact", "upstreams::without_a_ca_cert_the_systems_roots_count"])
            .env("TEST_OF_ROOTS", folder.path())
            .env("SSL_CERT_FILE", folder.path().join("ca"))
            .env_remove("SSL_CERT_DIR")
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains("1 passed"), "{said}");
        return;
    };
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let minted = Minted {
        ca: read("ca"),
        chain: read("chain"),
        key: read("key"),
    };
    let service = Service::start_with(BOTH, &minted).await;
    let policy = service.open_policy();
    let own = policy.replace(&format!("ca_cert = <<EOT\n{}EOT\n", service.ca), "");
    assert_ne!(policy, own);
    let world = World::new(&own);
    let answer = ask(world.listen(API).await, GET).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn an_api_server_that_is_away_is_told_as_a_status() {
    // Bound, so that nobody else listens there, and not listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let world = World::new(&format!(
        "endpoint \"kubernetes\" \"prod\" {{\n server = \"https://api.test:6443\"\n upstream = \"{}\"\n}}\n\
         profile \"dev\" {{\n peers = [\"laptop\"]\n endpoints = [kubernetes.prod]\n}}\n\
         rule \"all\" {{\n endpoint = kubernetes.prod\n verdict = \"allow\"\n}}",
        socket.local_addr().unwrap()
    ));
    let dialled = Dialled {
        endpoint: "kubernetes.prod",
        name: Some("api.test"),
        destination: "10.78.0.9:6443",
    };
    let gateway = world.listen(dialled).await;
    let request = "GET /api/v1/pods HTTP/1.1\r\nHost: api.test:6443\r\n\r\n";
    let answer = ask(gateway, request).await.unwrap();
    assert_eq!(answer.status, 502, "{}", answer.text());
    // As kubectl reads it, so that it prints the message.
    let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let parts =
        ["kind", "apiVersion", "status", "message"].map(|name| said[name].as_str().unwrap_or_default());
    let reason = "the service behind the gateway failed";
    assert_eq!(parts, ["Status", "v1", "Failure", reason]);
    assert_eq!(said["code"], 502);
}

#[tokio::test]
async fn an_upstream_that_is_away_is_502_and_one_that_is_slow_504() {
    let service = Service::start(BOTH).await;
    let own = service.address.to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let limits = "gateway {\n limits {\n connect_ms = 200\n idle_s = 1\n }\n";
    let policy = service.open_policy().replacen("gateway {\n", limits, 1);
    // It accepts and says nothing: no TLS; then no answer.
    let plain = policy.replace("ca_cert", "tls = false\n  ca_cert");
    for (policy, upstream, status) in [
        (&policy, &closed, 502),
        (&policy, &silent, 504),
        (&plain, &silent, 504),
        (&policy, &"no-such-name.invalid:1".to_owned(), 502),
    ] {
        let world = World::new(&policy.replace(&own, upstream));
        let gateway = world.listen(API).await;
        let answer = ask(gateway, GET).await.unwrap();
        assert_eq!(answer.status, status, "{upstream}: {}", answer.text());
    }
}

#[tokio::test]
async fn connections_are_kept_and_a_dead_one_is_not_used() {
    for speaks in [BOTH, ONLY_HTTP1] {
        let service = Service::start(speaks).await;
        let world = World::new(&service.open_policy());
        let gateway = world.listen(API).await;
        let url = "https://api.test/1k";
        for _ in 0..3 {
            assert_eq!(curl(&world, gateway, &["--http2", url]).await.status, 200);
        }
        assert_eq!(
            service.connections.load(Ordering::SeqCst),
            1,
            "the probe's connection and no other"
        );
        assert_eq!(world.shared.pool.kept(), 1);
    }
}

/// `tls`, `ca_cert` and `upstream` of every type of endpoint that is HTTP: plain text does not pass for
/// TLS nor TLS for plain text, and no roots but those that are named count.
#[tokio::test]
async fn tls_and_roots_are_as_each_type_of_endpoint_says() {
    let secure = Service::start(BOTH).await;
    let plain = Service::start(Speaks::Plain).await;
    let other = mint().ca;
    for (kind, name, default) in [
        ("https", "https.api", true),
        ("http", "http.api", false),
        ("kubernetes", "kubernetes.api", true),
        ("mcp", "mcp.api", true),
    ] {
        for (service, tls, ca, passes) in [
            (&secure, Some(true), &secure.ca, true),
            (&secure, Some(true), &other, false),
            (&secure, Some(false), &secure.ca, false),
            (&secure, None, &secure.ca, default),
            (&plain, Some(true), &secure.ca, false),
            (&plain, Some(false), &secure.ca, true),
            (&plain, None, &secure.ca, !default),
        ] {
            let said = tls.map_or(String::new(), |tls| format!("tls = {tls}\n"));
            let policy = format!(
                "endpoint \"{kind}\" \"api\" {{\nhosts = [\"api.test:443\"]\nupstream = \"{}\"\n{said}ca_cert = <<EOT\n{ca}EOT\n}}\n\
                 profile \"dev\" {{\npeers = [\"laptop\"]\nendpoints = [{name}]\n}}\n\
                 rule \"all\" {{\nendpoint = {name}\nverdict = \"allow\"\n}}\n",
                service.address
            );
            let world = World::new(&policy);
            let gateway = world
                .listen(Dialled {
                    endpoint: name,
                    ..API
                })
                .await;
            let before = service.seen().len();
            let body = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
            let request = format!(
                "POST /mcp HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let answer = ask(gateway, &request).await.unwrap();
            let reached = service.seen().len() > before;
            assert_eq!(
                reached,
                passes,
                "{kind} {tls:?}: {} {}",
                answer.status,
                answer.text()
            );
            assert_eq!(answer.status == 502, !passes, "{kind} {tls:?}: {}", answer.text());
        }
    }
}

/// A server whose every answer has this head.
async fn answers(head: String) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = head.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.read(&mut request).await;
            });
        }
    });
    address
}

/// A gateway before a server that speaks without TLS.
async fn before_plain(address: std::net::SocketAddr) -> World {
    let service = Service::start(BOTH).await;
    let policy = service
        .open_policy()
        .replace(&service.address.to_string(), &address.to_string())
        .replace("ca_cert", "tls = false\n  ca_cert");
    World::new(&policy)
}

/// `RESPONSE_HEADERS_MAX` and `RESPONSE_HEAD_BYTES_MAX`.
#[tokio::test]
async fn the_head_of_an_answer_has_a_size() {
    let lines = |count: usize| (1..count).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    let long = |bytes: usize| format!("x: {}\r\n", "x".repeat(bytes));
    for (more, status) in [
        (lines(RESPONSE_HEADERS_MAX), 200),
        (lines(RESPONSE_HEADERS_MAX + 1), 502),
        (long(RESPONSE_HEAD_BYTES_MAX - 100), 200),
        (long(RESPONSE_HEAD_BYTES_MAX), 502),
    ] {
        let address = answers(format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{more}\r\n")).await;
        let world = before_plain(address).await;
        let gateway = world.listen(API).await;
        let answer = ask(gateway, GET).await.unwrap();
        assert_eq!(answer.status, status, "{} bytes", more.len());
    }
}

#[tokio::test]
async fn the_head_of_an_answer_over_http2_has_a_size() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    for (bytes, status) in [
        (RESPONSE_HEAD_BYTES_MAX - 400, 200),
        (RESPONSE_HEAD_BYTES_MAX, 502),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(move |_| async move {
                let response = http::Response::builder().header("x", "x".repeat(bytes));
                response.body(http_body_util::Empty::<bytes::Bytes>::new())
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
        let world = before_plain(address).await;
        let stream = TcpStream::connect(world.listen(API).await).await.unwrap();
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.max_header_list_size(1 << 20);
        let (mut agent, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get("https://api.test/1k");
        let request = request
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        let answer = agent.send_request(request).await.unwrap();
        assert_eq!(answer.status(), status, "{bytes} bytes");
    }
}

/// A server that answers once on each connection and then hangs up without saying so.
#[tokio::test]
async fn a_request_is_sent_again_only_if_it_provably_was_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = heard.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                // Answers the first request and breaks off at the second.
                for number in 0.. {
                    if !matches!(stream.read(&mut buffer).await, Ok(1..)) {
                        return;
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                    if number == 1 {
                        return;
                    }
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        .await;
                }
            });
        }
    });
    let world = before_plain(address).await;
    let gateway = world.listen(API).await;
    let mut raw = Raw::connect(gateway).await;
    let post = "POST /pay HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1\r\n\r\nx";
    raw.say(post).await;
    assert_eq!(raw.hear().await.unwrap().status, 200);
    // The second is written to the kept connection, which breaks: it may have been acted on.
    raw.say(post).await;
    assert_eq!(raw.hear().await.unwrap().status, 502);
    assert_eq!(heard.load(Ordering::SeqCst), 2, "it was not sent twice");
    raw.say(post).await;
    assert_eq!(raw.hear().await.unwrap().status, 200);
}

#[tokio::test]
async fn nginx_serves_through_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let minted = mint();
    std::fs::write(at("cert.pem"), &minted.chain).unwrap();
    std::fs::write(at("key.pem"), &minted.key).unwrap();
    std::fs::write(at("file"), vec![b'n'; 300_000]).unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {pid};\nerror_log {log};\nevents {{}}\nhttp {{\n access_log off;\n\
         client_body_temp_path {tmp};\nproxy_temp_path {tmp};\nfastcgi_temp_path {tmp};\nuwsgi_temp_path {tmp};\nscgi_temp_path {tmp};\n\
         server {{\n listen 127.0.0.1:{port} ssl http2;\n ssl_certificate {cert};\n ssl_certificate_key {key};\n root {root};\n\
         location = /limited {{ limit_except GET {{ deny all; }} }}\n}}\n}}\n",
        pid = at("pid"),
        log = at("log"),
        tmp = at("tmp"),
        cert = at("cert.pem"),
        key = at("key.pem"),
        root = at(""),
    );
    std::fs::write(at("conf"), config).unwrap();
    let nginx = tokio::process::Command::new("/usr/sbin/nginx")
        .args(["-c", &at("conf"), "-e", &at("log")])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(_nginx) = nginx else {
        panic!("nginx is not installed: apt-get install nginx-light");
    };
    let up = tokio::time::timeout(SOON, async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    up.await
        .unwrap_or_else(|_| panic!("{}", std::fs::read_to_string(at("log")).unwrap_or_default()));
    let service = Service::start(BOTH).await;
    let policy = service
        .open_policy()
        .replace(&service.address.to_string(), &format!("127.0.0.1:{port}"))
        .replace(&service.ca, &minted.ca);
    let world = World::new(&policy);
    let gateway = world.listen(API).await;
    for flag in ["--http2", "--http1.1"] {
        let got = curls(
            &world,
            gateway,
            &[
                &[flag, "https://api.test/file"],
                &[flag, "-r", "0-9", "https://api.test/file"],
                &[flag, "-I", "https://api.test/file"],
                &[flag, "-d", "x", "https://api.test/limited"],
                &[flag, "https://api.test/missing"],
            ],
        )
        .await;
        let seen: Vec<_> = got.iter().map(|got| (got.status, got.body.len())).collect();
        assert_eq!(
            (seen[0], seen[1]),
            ((200, 300_000), (206, 10)),
            "{}",
            got[0].errors
        );
        assert_eq!(
            seen.iter().map(|one| one.0).collect::<Vec<_>>(),
            [200, 206, 200, 403, 404]
        );
    }
    until("the agent's connections end", || world.open() == 0).await;
}
