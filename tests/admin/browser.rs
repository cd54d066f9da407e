//! A browser's requests to the admin page by raw HTTP: what a browser sends, and what a hostile page
//! makes it send.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::{SOON, World};

pub const PASSWORD: &str = "correct horse battery";

/// An answer with its head.
pub struct Heard {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Heard {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| {
            let (own, value) = line.split_once(": ")?;
            own.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// What a browser has: the cookie, and the page's own secret.
pub struct Session {
    pub cookie: String,
    pub guard: String,
}

pub async fn hear(world: &World, line: &str, headers: &str, body: &str) -> Heard {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let length = body.len();
    let text = format!(
        "{line} HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
    read.expect("no answer").unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Heard {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// The headers of our own page.
pub fn own(world: &World) -> String {
    let host = world.address;
    format!("Host: {host}\r\nOrigin: http://{host}\r\nSec-Fetch-Site: same-origin\r\n")
}

impl Session {
    pub fn headers(&self, world: &World) -> String {
        let (cookie, guard) = (&self.cookie, &self.guard);
        format!(
            "{}Cookie: other=1; {cookie}\r\nX-Tailkeep-Guard: {guard}\r\n",
            own(world)
        )
    }
}

/// Invites a person by the command, and lets them set their password.
pub async fn invited(world: &World, name: &str) -> Session {
    let url = world.json(&["operators", "invite", name, "--format", "json"])["url"]
        .as_str()
        .unwrap()
        .to_owned();
    let page = format!("http://{}/#/invitation/", world.address);
    let invitation = url.strip_prefix(&page).expect("the link leads to the page");
    let look = json!({ "invitation": invitation }).to_string();
    let said = hear(world, "POST /v1/sign-in/invitation", &own(world), &look).await;
    assert_eq!((said.status, &said.json()["name"]), (200, &json!(name)));
    let used = json!({ "invitation": invitation, "password": PASSWORD }).to_string();
    let said = hear(world, "POST /v1/sign-in/invitation", &own(world), &used).await;
    let session = signed_in(&said);
    let again = hear(world, "POST /v1/sign-in/invitation", &own(world), &used).await;
    assert_eq!(again.status, 404, "an invitation was used twice");
    session
}

fn signed_in(said: &Heard) -> Session {
    assert_eq!(said.status, 200, "{}", said.body);
    let cookie = said.header("set-cookie").unwrap();
    for part in ["; Path=/", "; HttpOnly", "; SameSite=Strict", "; Max-Age="] {
        assert!(cookie.contains(part), "{cookie}");
    }
    Session {
        cookie: cookie.split(';').next().unwrap().to_owned(),
        guard: said.json()["guard"].as_str().unwrap().to_owned(),
    }
}

async fn sign_in(world: &World, name: &str, password: &str) -> Heard {
    let body = json!({ "name": name, "password": password }).to_string();
    hear(world, "POST /v1/sign-in", &own(world), &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_and_out() {
    let world = World::new().await;
    let ways = hear(&world, "GET /v1/sign-in", &own(&world), "").await.json();
    assert_eq!(
        ways,
        json!({ "tailnet": null, "password": true, "has_operators": false })
    );
    let first = invited(&world, "ann").await;
    let who = hear(&world, "GET /v1/session", &first.headers(&world), "")
        .await
        .json();
    assert_eq!(
        (&who["person"], &who["session"]["via"]),
        (&json!("ann"), &json!("password"))
    );
    assert_eq!(sign_in(&world, "ann", "another password").await.status, 401);
    assert_eq!(sign_in(&world, "bob", PASSWORD).await.status, 401);
    let second = signed_in(&sign_in(&world, "ann", PASSWORD).await);
    let asked = world.ask("a");
    let id = world.pending(1).await[0].id;
    let decided = hear(
        &world,
        &format!("POST /v1/approvals/{id}/approve"),
        &second.headers(&world),
        "",
    )
    .await;
    assert_eq!((decided.status, &decided.json()["by"]), (200, &json!(["ann"])));
    asked.await.unwrap();
    // Out, which ends this session alone.
    let out = hear(&world, "DELETE /v1/session", &second.headers(&world), "").await;
    assert!(out.header("set-cookie").unwrap().starts_with("tailkeep=; "));
    assert_eq!(
        hear(&world, "GET /v1/session", &second.headers(&world), "")
            .await
            .status,
        401
    );
    assert_eq!(
        hear(&world, "GET /v1/session", &first.headers(&world), "")
            .await
            .status,
        200
    );
    let listed = world.json(&["operators", "sessions", "--format", "json"]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    for secret in [&first.guard, first.cookie.strip_prefix("tailkeep=").unwrap()] {
        assert!(!listed.to_string().contains(secret));
    }
    world.run(&["operators", "end", &listed[0]["id"].to_string()]);
    assert_eq!(
        hear(&world, "GET /v1/session", &first.headers(&world), "")
            .await
            .status,
        401
    );
    let third = signed_in(&sign_in(&world, "ann", PASSWORD).await);
    assert!(
        world.run(&["operators"]).contains("ann") && world.run(&["operators", "sessions"]).contains("ann")
    );
    world.run(&["operators", "remove", "ann"]);
    assert_eq!(
        hear(&world, "GET /v1/session", &third.headers(&world), "")
            .await
            .status,
        401
    );
    assert_eq!(sign_in(&world, "ann", PASSWORD).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_page_makes_a_browser_send_is_refused() {
    let world = World::new().await;
    let session = invited(&world, "ann").await;
    let (host, port) = (world.address.to_string(), world.address.port());
    let (cookie, guard) = (&session.cookie, &session.guard);
    let both = format!("Cookie: {cookie}\r\nX-Tailkeep-Guard: {guard}\r\n");
    let ours = format!("Host: {host}\r\nOrigin: http://{host}\r\n");
    let asked = world.ask("a");
    let id = world.pending(1).await[0].id;
    let approve = format!("POST /v1/approvals/{id}/approve");
    for (why, headers, status) in [
        ("no second secret", format!("{ours}Cookie: {cookie}\r\n"), 401),
        (
            "a wrong one",
            format!("{ours}Cookie: {cookie}\r\nX-Tailkeep-Guard: {guard}0\r\n"),
            401,
        ),
        ("no cookie", format!("{ours}X-Tailkeep-Guard: {guard}\r\n"), 403),
        (
            "a cookie of another name",
            format!("{ours}Cookie: {cookie}\r\n").replace("tailkeep=", "x=")
                + &format!("X-Tailkeep-Guard: {guard}\r\n"),
            401,
        ),
        ("no origin", format!("Host: {host}\r\n{both}"), 403),
        (
            "another origin",
            format!("Host: {host}\r\nOrigin: https://evil.test\r\n{both}"),
            403,
        ),
        (
            "another port",
            format!("Host: {host}\r\nOrigin: http://127.0.0.1:1\r\n{both}"),
            403,
        ),
        (
            "a sandbox",
            format!("Host: {host}\r\nOrigin: null\r\n{both}"),
            403,
        ),
        (
            "the other name of this listener",
            format!("Host: {host}\r\nOrigin: http://localhost:{port}\r\n{both}"),
            403,
        ),
        (
            "rebinding",
            format!("Host: evil.test:{port}\r\nOrigin: http://evil.test:{port}\r\n{both}"),
            403,
        ),
        (
            "another site",
            format!("{ours}{both}Sec-Fetch-Site: same-site\r\n"),
            403,
        ),
        (
            "the token from a page",
            format!("{ours}Authorization: Bearer {}\r\n", world.token()),
            403,
        ),
    ] {
        let said = hear(&world, &approve, &headers, "").await;
        assert_eq!(said.status, status, "{why}: {}", said.body);
        assert_eq!(world.queue.list(false).await.unwrap().len(), 1, "{why}");
    }
    // Signing in is no way round either: a session that a page chose would be its own.
    let body = json!({ "name": "ann", "password": PASSWORD }).to_string();
    for headers in [
        format!("Host: {host}\r\n"),
        format!("Host: {host}\r\nOrigin: https://evil.test\r\n"),
        "Host: evil.test\r\nOrigin: http://evil.test\r\n".to_owned(),
    ] {
        assert_eq!(
            hear(&world, "POST /v1/sign-in", &headers, &body).await.status,
            403,
            "{headers}"
        );
    }
    // The page may be linked to; its answers may not be read or framed by others.
    let linked = format!("Host: {host}\r\nSec-Fetch-Site: cross-site\r\n");
    assert_eq!(hear(&world, "GET /", &linked, "").await.status, 200);
    assert_eq!(
        hear(&world, "GET /v1/health", &(linked + &both), "").await.status,
        403
    );
    assert_eq!(
        hear(&world, &approve, &session.headers(&world), "").await.status,
        200
    );
    asked.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_not_tried_for_long() {
    let world = World::new().await;
    invited(&world, "ann").await;
    let mut last = 0;
    for _ in 0..tailkeep::admin::password::FAILURES_FREE + 1 {
        last = sign_in(&world, "ann", "a wrong password").await.status;
    }
    assert_eq!(last, 429);
    let said = sign_in(&world, "ann", PASSWORD).await;
    assert!(
        said.status == 429 && said.body.contains("try again in"),
        "{}",
        said.body
    );
    let short = json!({ "invitation": invitation(&world, "bob"), "password": "short" }).to_string();
    let said = hear(&world, "POST /v1/sign-in/invitation", &own(&world), &short).await;
    assert!(
        said.status == 400 && said.body.contains("at least 12"),
        "{}",
        said.body
    );
}

fn invitation(world: &World, name: &str) -> String {
    let url = world.json(&["operators", "invite", name, "--format", "json"])["url"].to_string();
    url.trim_matches('"').rsplit('/').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_browser_calls_itself_is_kept_up_to_a_length_and_an_invitation_for_a_day() {
    let world = World::new().await;
    invited(&world, "ann").await;
    let named = format!("{}User-Agent: {}\r\n", own(&world), "x".repeat(1000));
    let body = json!({ "name": "ann", "password": PASSWORD }).to_string();
    assert_eq!(hear(&world, "POST /v1/sign-in", &named, &body).await.status, 200);
    let (_, sessions) = world.unix("GET /v1/sessions", "").await;
    let longest = sessions.as_array().unwrap().iter();
    let longest = longest
        .filter_map(|one| one["browser"].as_str())
        .map(str::len)
        .max();
    assert_eq!(longest, Some(200), "{sessions}");
    let database = rusqlite::Connection::open(world.dir().join("state.db")).unwrap();
    for (age_s, status) in [(86_400 - 60, 200), (86_400 + 60, 404)] {
        let look = json!({ "invitation": invitation(&world, "bob") }).to_string();
        let age = "UPDATE operator_invite SET expires_us = expires_us - ?1 * 1000000";
        database.execute(age, [age_s]).unwrap();
        let said = hear(&world, "POST /v1/sign-in/invitation", &own(&world), &look).await;
        assert_eq!(said.status, status, "{age_s}: {}", said.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_in_the_binary_and_may_load_nothing_else() {
    let world = World::new().await;
    let page = hear(&world, "GET /", &own(&world), "").await;
    assert_eq!(page.status, 200);
    let mut open: Vec<String> = vec!["/".to_owned()];
    let mut seen = Vec::new();
    while let Some(path) = open.pop() {
        if seen.contains(&path) {
            continue;
        }
        let file = hear(&world, &format!("GET {path}"), &own(&world), "").await;
        assert_eq!(file.status, 200, "{path}");
        let policy = file.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"));
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        let tag = file.header("etag").unwrap();
        let known = format!("{}If-None-Match: {tag}\r\n", own(&world));
        assert_eq!(hear(&world, &format!("GET {path}"), &known, "").await.status, 304);
        if !path.contains("vendor") {
            for outside in ["http://", "https://"] {
                let foreign = file
                    .body
                    .split(['"', '\''])
                    .any(|text| text.starts_with(outside) && text.len() > 2);
                assert!(!foreign || path.ends_with("svg"), "{path} names {outside}");
            }
        }
        let names = file
            .body
            .split(['"', '\''])
            .filter(|text| text.ends_with(".js") || text.ends_with(".css"));
        open.extend(names.map(|name| name.replacen("./", "/page/", 1)));
        seen.push(path);
    }
    assert!(seen.len() > 6, "{seen:?}");
    let answer = hear(&world, "GET /v1/health", &own(&world), "").await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.header("content-security-policy").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_holds_open_ends_with_it() {
    let world = World::new().await;
    let session = invited(&world, "ann").await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let text = format!(
        "GET /v1/approvals/watch HTTP/1.1\r\n{}\r\n",
        session.headers(&world)
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    world.run(&["operators", "end", "1"]);
    let mut rest = Vec::new();
    let read = tokio::time::timeout(SOON, async {
        // The chunked body's end; the connection may be kept.
        while !rest.ends_with(b"0\r\n\r\n") && stream.read_buf(&mut rest).await.unwrap() > 0 {}
    });
    read.await.expect("the stream goes on");
}
