//! Held data changes, tried in the agent's own session: what approvers see, and that nothing of it
//! lasts or is seen by anybody without their yes.

use serde_json::{Value, json};
use tailkeep::verdict::approval::{Decide, Decision};

use crate::clients::psycopg;
use crate::raw::{Raw, bind, cancel, execute, parse, query, sync};
use crate::server::Server;
use crate::world::{SETUP, Setup, World, server, until};

const ENDPOINT: &str = "sslmode = \"disable\"
  preview = true
  preview_masked = [\"email\"]";

/// All that changes data is held.
const ASKED: &str = r#"
rule "held" {
  endpoint  = postgres.orders
  condition = "sql.statement.contains('users') || sql.opaque || 'truncate' in sql.verbs"
  approve   = [human_approver.ops]
  priority  = 10
}
rule "rest" {
  endpoint = postgres.orders
  verdict  = "allow"
}
"#;

async fn world(endpoint: &str) -> (Server, World) {
    let server = server(&[]).await;
    assert!(server.sql(
        "create table users (id int primary key, email text, name text);
         insert into users select i, 'u' || i || '@example.com', 'n' || i from generate_series(1, 4) i;
         create table serials (id serial, users int);
         grant all on all tables in schema public to app; grant all on all sequences in schema public to app"
    ));
    let setup = Setup {
        endpoint,
        rules: ASKED,
        ..SETUP
    };
    let world = World::new(server.port, setup).await;
    (server, world)
}

/// The preview of the newest question that is held.
async fn preview(world: &World) -> (i64, Value) {
    let id = world.held().await;
    let held = world.queue.list(false).await.unwrap();
    let held = held.iter().find(|held| held.id == id).unwrap();
    (id, held.question["preview"].clone())
}

async fn decide(world: &World, id: i64, decision: Decision) {
    let decide = Decide {
        id,
        person: "ann".into(),
        decision,
        reason: None,
        grant: None,
    };
    world.queue.decide(decide).await.unwrap();
}

const COUNT: &str = "select count(*) from users";

fn open_transactions(server: &Server) -> String {
    server.says("select count(*) from pg_stat_activity where state like 'idle in transaction%'")
}

#[tokio::test]
async fn a_change_is_shown_and_committed_on_yes() {
    let (server, world) = world(ENDPOINT).await;
    let mut agent = Raw::enter(world.address).await;
    agent.send(&query("delete from users where id <= 2")).await;
    let (id, shown) = preview(&world).await;
    assert_eq!(
        (&shown["does"]["tag"], &shown["does"]["rows"]),
        (&json!("DELETE 2"), &json!(2))
    );
    assert_eq!(
        shown["does"]["digest"].as_str().map(str::len),
        Some(64),
        "{shown}"
    );
    assert_eq!(shown["columns"], json!(["id", "email", "name"]));
    let sample = shown["sample"].as_array().unwrap();
    assert_eq!(sample.len(), 2);
    assert_eq!((&sample[0][0], &sample[0][2]), (&json!("1"), &json!("n1")));
    assert!(!shown.to_string().contains("example.com"), "masked: {shown}");
    // It has run, and nobody sees it.
    assert_eq!(open_transactions(&server), "1");
    assert_eq!(server.says(COUNT), "4");
    decide(&world, id, Decision::Allow).await;
    let came = agent.until_ready(1).await;
    assert_eq!(came.tags, "CZ");
    assert!(came.text().contains("DELETE 2"), "{came:?}");
    assert_eq!(server.says(COUNT), "2");
    // The session goes on as if nothing had been.
    assert_eq!(agent.query("select 1").await.tags, "TDCZ");
    assert_eq!(open_transactions(&server), "0");
    drop(agent);
    let records = world.records().await;
    let tried: Vec<_> = records.iter().filter(|one| one["step"] == "preview").collect();
    assert_eq!(tried.len(), 1);
    assert_eq!(
        (&tried[0]["verdict"], &tried[0]["outcome"]["status"]),
        (&json!("allow"), &json!("COMMITTED"))
    );
    let done = records.iter().find(|one| one["cause"] == "approved").unwrap();
    assert_eq!(done["outcome"]["status"], "DELETE 2");
    assert!(tried[0]["id"].as_u64() < done["id"].as_u64());
}

#[tokio::test]
async fn no_rolls_it_back() {
    let (server, world) = world(ENDPOINT).await;
    let mut agent = Raw::enter(world.address).await;
    agent
        .send(&query("update users set name = 'x' returning name"))
        .await;
    let (id, shown) = preview(&world).await;
    assert_eq!(shown["does"]["rows"], 4);
    assert_eq!(
        shown["sample"],
        json!([]),
        "what it returns is not the table's rows"
    );
    decide(&world, id, Decision::Deny).await;
    let came = agent.until_ready(1).await;
    assert_eq!(came.tags, "EZ");
    assert!(came.text().contains("42501"), "{came:?}");
    assert_eq!(server.says("select count(*) from users where name = 'x'"), "0");
    assert_eq!(agent.query("select 1").await.tags, "TDCZ");

    // Taken back by its agent, and by its agent's end.
    agent.send(&query("delete from users")).await;
    preview(&world).await;
    cancel(world.address, &agent.key).await;
    let came = agent.until_ready(1).await;
    assert!(came.text().contains("57014"), "{came:?}");
    assert_eq!(agent.query("select 1").await.tags, "TDCZ");
    agent.send(&query("delete from users")).await;
    preview(&world).await;
    assert_eq!(open_transactions(&server), "1");
    drop(agent);
    until("the server forgets it", || open_transactions(&server) == "0").await;
    assert_eq!(server.says(COUNT), "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_its_locks_ends_it() {
    let (server, world) = world(&format!("{ENDPOINT}\n  preview_lock_max = 1")).await;
    let mut agent = Raw::enter(world.address).await;
    agent.send(&query("delete from users where id <= 2")).await;
    let (id, _) = preview(&world).await;
    assert_eq!(open_transactions(&server), "1");
    // It waits until the trial is given up: without that, for ever.
    assert!(server.sql("update users set name = name where id = 1"));
    until("rolled back", || open_transactions(&server) == "0").await;
    assert_eq!(server.says(COUNT), "4");
    // The question stays. On yes it runs once more and does the same.
    assert_eq!(world.held().await, id);
    decide(&world, id, Decision::Allow).await;
    let came = agent.until_ready(1).await;
    assert!(came.text().contains("DELETE 2"), "{came:?}");
    assert_eq!(server.says(COUNT), "2");

    // Where as many rows are others, nothing is done.
    assert!(server.sql("insert into users values (1, 'a', 'n1'), (2, 'b', 'x2')"));
    agent
        .send(&query("delete from users where name like 'n%' and id < 3"))
        .await;
    let (id, shown) = preview(&world).await;
    assert_eq!(shown["sample"][0][0], "1", "{shown}");
    let swap = "update users set name = case id when 1 then 'x1' else 'n2' end where id < 3";
    assert!(server.sql(swap));
    until("rolled back", || open_transactions(&server) == "0").await;
    decide(&world, id, Decision::Allow).await;
    let came = agent.until_ready(1).await;
    assert_eq!(came.tags, "EZ");
    assert!(came.text().contains("no longer what was approved"), "{came:?}");
    assert_eq!(server.says(COUNT), "4");
    assert!(server.sql("delete from users where id < 3"));

    // Where it no longer does the same, nothing is done.
    agent.send(&query("delete from users where name like 'n%'")).await;
    let (id, shown) = preview(&world).await;
    assert_eq!(shown["does"]["rows"], 2);
    assert!(server.sql("update users set name = 'other' where id = 3"));
    until("rolled back", || open_transactions(&server) == "0").await;
    decide(&world, id, Decision::Allow).await;
    let came = agent.until_ready(1).await;
    assert_eq!(came.tags, "EZ");
    assert!(came.text().contains("no longer what was approved"), "{came:?}");
    assert_eq!(server.says(COUNT), "2");
    assert_eq!(open_transactions(&server), "0");
    assert_eq!(agent.query("select 1").await.tags, "TDCZ");
}

#[tokio::test]
async fn it_is_held_open_so_long_and_no_longer() {
    let (server, world) = world(&format!("{ENDPOINT}\n  preview_hold_max = 1\n  preview_rows = 1")).await;
    let mut agent = Raw::enter(world.address).await;
    agent.send(&query("delete from users")).await;
    let (id, shown) = preview(&world).await;
    assert_eq!(shown["held_s"], 1);
    assert_eq!(shown["sample"].as_array().unwrap().len(), 1);
    until("rolled back", || open_transactions(&server) == "0").await;
    decide(&world, id, Decision::Deny).await;
    assert_eq!(agent.until_ready(1).await.tags, "EZ");
    assert_eq!(server.says(COUNT), "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_given_up() {
    let (server, world) = world(ENDPOINT).await;
    let server = std::sync::Arc::new(server);
    // Somebody else keeps the rows for longer than anybody waits here.
    let holder = server.clone();
    let held = move || holder.sql("begin; lock table users; select pg_sleep(60)");
    let held = tokio::task::spawn_blocking(held);
    until("it is locked", || {
        server.says("select count(*) from pg_locks where relation = 'users'::regclass and granted") == "1"
    })
    .await;
    let mut agent = Raw::enter(world.address).await;
    agent.send(&query("delete from users where id <= 2")).await;
    let (id, shown) = preview(&world).await;
    assert_eq!(shown["none"], "it takes too long", "{shown}");
    assert_eq!(open_transactions(&server), "0");
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where query like 'begin; lock%'";
    assert!(server.sql(end));
    assert!(!held.await.unwrap(), "it held them to the end");
    decide(&world, id, Decision::Deny).await;
    assert_eq!(agent.until_ready(1).await.tags, "EZ");
}

#[tokio::test]
async fn what_a_rollback_does_not_undo_is_never_tried() {
    let (server, world) = world(ENDPOINT).await;
    assert!(server.sql(
        "create table log (n int); create sequence s; create table users_log (users int, n int default 0);
         create table users_of (id int primary key, users int references users on delete cascade);
         create table users_seen (id int primary key);
         create table users_seen_by (id int references users_seen on delete cascade);
         create view users_view as select * from users;
         create function note() returns trigger language plpgsql as $$ begin insert into log values (1); return new; end $$;
         create function one() returns int language sql as 'select 1';
         create table users_own (a int default one(), b int);
         create function noted(text) returns bool language plpgsql as $$ begin insert into log values (1); return true; end $$;
         create domain checked as text check (noted(value));
         create domain drawn as int check (nextval('s') > value);
         create domain set_up as text check (set_config('a.b', value, false) = value);
         create table users_checked (a checked); create table users_drawn (a drawn[]); create table users_set (a set_up);
         create table users_kept (a int, check (nextval('s') > a));
         create type mood as enum ('good', 'bad');
         create function moody(text) returns mood language plpgsql as $$ begin insert into log values (1); return 'bad'; end $$;
         create cast (text as mood) with function moody(text) as implicit;
         create table users_moods (m mood);
         create function lower(int) returns text language plpgsql as $$ begin insert into log values (1); return 'x'; end $$;
         create function plus(text, int) returns bool language plpgsql as $$ begin insert into log values (1); return true; end $$;
         create operator <-> (leftarg = text, rightarg = int, function = plus);
         create table users_signed (a text, check (a <-> 5));
         create table users_cast (a text, check ((a::checked) is not null));
         create table users_ruled (a text); alter table users_ruled enable row level security;
         create view names as select 'x'::text as name where noted('x');
         create policy p on users_ruled using (a in (select name from names));
         create function half(int) returns int language plpgsql immutable as $$ begin return $1 / 2; end $$;
         create table users_parts (a int) partition by range (half(a));
         create table users_part partition of users_parts for values from (0) to (9);
         create trigger t after insert on users_log for each row execute function note();
         create trigger t after delete on users_seen_by for each row execute function note();
         grant all on all tables in schema public to app; grant all on all sequences in schema public to app"
    ));
    let mut agent = Raw::enter(world.address).await;
    for (text, why) in [
        ("insert into users_log values (1)", "a trigger would run"),
        ("delete from users_seen", "a trigger would run"),
        ("delete from users_view", "a view or a foreign table"),
        ("insert into users_own (b) values (1)", "not the server's own"),
        ("insert into serials (users) values (1)", "no rollback gives back"),
        ("update users set name = 'x'::checked", "cannot be read"),
        (
            "update users set name = cast('x' as public.checked)",
            "cannot be read",
        ),
        ("insert into users_checked values ('x')", "not the server's own"),
        ("insert into users_drawn values ('{0}')", "effects of its own"),
        ("insert into users_set values ('x')", "effects of its own"),
        ("insert into users_kept values (0)", "effects of its own"),
        ("insert into users_signed values ('x')", "not the server's own"),
        ("insert into users_cast values ('x')", "not be the server's own"),
        ("delete from users_ruled", "reads another"),
        ("insert into users_parts values (1)", "not the server's own"),
        ("insert into users_part values (1)", "not the server's own"),
        (
            "insert into users_moods select name from users",
            "whose functions are not the server's own",
        ),
        (
            "update users set name = lower(5)",
            "has the name of one that it calls",
        ),
        (
            "delete from users where name <-> 5",
            "has the name of one that it uses",
        ),
        ("delete from users where xmax = 0", "which a trial changes"),
        (
            "delete from users where clock_timestamp() > now()",
            "clock_timestamp",
        ),
        ("update users set id = nextval('s')", "nextval"),
        ("update users set name = one()", "cannot be read"),
        ("delete from users; delete from users", "several statements"),
        ("truncate users", "truncate is not tried"),
        ("create table users2 (a int)", "not tried"),
        ("copy users to program 'cat'", "copy is not tried"),
        ("do $$ begin delete from users; end $$", "cannot be read"),
        ("notify users", "not tried"),
        ("vacuum users", "not tried"),
    ] {
        agent.send(&query(text)).await;
        let (id, shown) = preview(&world).await;
        let none = shown["none"]
            .as_str()
            .unwrap_or_else(|| panic!("{text}: {shown}"));
        assert!(none.contains(why), "{text}: {none}");
        assert!(shown.get("does").is_none(), "{text}");
        assert_eq!(open_transactions(&server), "0", "{text}");
        decide(&world, id, Decision::Deny).await;
        let came = agent.until_ready(1).await;
        assert_eq!(came.tags, "EZ", "{text}: {came:?}");
    }
    let drawn = server.says("select is_called from s") + &server.says("select is_called from serials_id_seq");
    assert_eq!(
        (drawn.as_str(), server.says("select count(*) from log").as_str()),
        ("ff", "0")
    );
    // The plan of what reads.
    agent.send(&query("select * from users where id = 1")).await;
    let (id, shown) = preview(&world).await;
    assert!(shown["plan"]["cost"].as_f64().unwrap() > 0.0, "{shown}");
    assert_eq!(shown["plan"]["rows"], 1);
    decide(&world, id, Decision::Allow).await;
    assert_eq!(agent.until_ready(1).await.tags, "TDCZ");
    // A cascade without anything else is undone as well.
    agent.send(&query("delete from users where id = 4")).await;
    let (id, shown) = preview(&world).await;
    assert_eq!(shown["does"]["rows"], 1, "{shown}");
    decide(&world, id, Decision::Allow).await;
    assert_eq!(agent.until_ready(1).await.tags, "CZ");
}

/// Functions that nothing of the table names itself: behind an operator, a domain, a partition's key, a view.
#[tokio::test]
async fn what_calls_a_function_by_a_way_round_is_never_tried() {
    let (server, world) = world(ENDPOINT).await;
    assert!(server.sql(
        "create table log (n int);
         create function same(int, int) returns bool language plpgsql immutable as
           $$ begin insert into log values (1); return true; end $$;
         create operator === (leftarg = int, rightarg = int, function = same);
         create table users_by_operator (a int, check (a === a));
         create function noted(text) returns bool language plpgsql immutable as
           $$ begin insert into log values (1); return true; end $$;
         create domain noted_text as text check (noted(value));
         create table users_by_domain (a text, check (a::noted_text is not null));
         create function key_of(int) returns int language plpgsql immutable as
           $$ begin insert into log values (1); return 1; end $$;
         create table users_by_key (a int) partition by range ((key_of(a)));
         create table users_by_key_all partition of users_by_key default;
         create view noting as select noted('x') as fine;
         create table users_by_view (a int); alter table users_by_view enable row level security;
         create policy own on users_by_view using (exists (select from noting where fine));
         create policy new on users_by_view for insert with check (exists (select from noting where fine));
         grant all on all tables in schema public to app"
    ));
    let mut agent = Raw::enter(world.address).await;
    for (text, why) in [
        ("insert into users_by_operator values (1)", "calls a function"),
        (
            "insert into users_by_domain values ('x')",
            "a type whose functions",
        ),
        ("insert into users_by_key values (1)", "a partition key calls"),
        (
            "insert into users_by_view values (1)",
            "reads another table or a view",
        ),
    ] {
        agent.send(&query(text)).await;
        let (id, shown) = preview(&world).await;
        let none = shown["none"]
            .as_str()
            .unwrap_or_else(|| panic!("{text}: {shown}"));
        assert!(none.contains(why), "{text}: {none}");
        decide(&world, id, Decision::Deny).await;
        assert_eq!(agent.until_ready(1).await.tags, "EZ", "{text}");
    }
    assert_eq!(server.says("select count(*) from log"), "0");
}

#[tokio::test]
async fn inside_a_transaction_it_is_the_agents_to_commit() {
    let (server, world) = world(ENDPOINT).await;
    let mut agent = Raw::enter(world.address).await;
    agent.query("begin").await;
    agent.send(&query("delete from users where id = 1")).await;
    let (id, shown) = preview(&world).await;
    assert_eq!(shown["does"]["rows"], 1);
    // What others commit between the sample and the change would not be seen in it.
    assert_eq!(
        (&shown["sample"], &shown["does"]["digest"]),
        (&json!([]), &json!(null))
    );
    assert!(
        shown["note"].as_str().unwrap().contains("READ COMMITTED"),
        "{shown}"
    );
    decide(&world, id, Decision::Allow).await;
    let came = agent.until_ready(1).await;
    assert_eq!(came.tags, "CZ");
    assert_eq!(server.says(COUNT), "4", "it is not committed yet");
    agent.send(&query("delete from users where id = 2")).await;
    let (id, _) = preview(&world).await;
    decide(&world, id, Decision::Deny).await;
    let came = agent.until_ready(1).await;
    assert!(came.text().contains("42501"), "{came:?}");
    // A refusal fails the transaction, as ever.
    let came = agent.query("commit").await;
    assert!(came.text().contains("ROLLBACK"), "{came:?}");
    assert_eq!(server.says(COUNT), "4");

    agent.query("begin isolation level repeatable read").await;
    agent.send(&query("delete from users where id = 1")).await;
    let (id, shown) = preview(&world).await;
    assert_eq!(shown["sample"][0][0], "1", "{shown}");
    decide(&world, id, Decision::Allow).await;
    agent.until_ready(1).await;
    agent.query("commit").await;
    assert_eq!(server.says(COUNT), "3");
}

#[tokio::test]
async fn errors_are_the_servers_own() {
    let (server, world) = world(ENDPOINT).await;
    assert!(server.sql(
        "create table users_of (users int references users deferrable initially deferred);
         grant all on users_of to app; grant references on users to app"
    ));
    let mut agent = Raw::enter(world.address).await;
    // At COMMIT.
    agent.send(&query("insert into users_of values (77)")).await;
    let (id, shown) = preview(&world).await;
    assert_eq!(shown["does"]["rows"], 1, "{shown}");
    decide(&world, id, Decision::Allow).await;
    let came = agent.until_ready(1).await;
    assert_eq!(came.tags, "EZ");
    assert!(came.text().contains("23503"), "{came:?}");
    assert_eq!(server.says("select count(*) from users_of"), "0");
    assert_eq!(agent.query("select 1").await.tags, "TDCZ");
    // At once: the approver sees it, and so does the agent.
    agent.send(&query("insert into users values (1, 'a', 'b')")).await;
    let (id, shown) = preview(&world).await;
    assert!(
        shown["does"]["error"].as_str().unwrap().starts_with("23505"),
        "{shown}"
    );
    decide(&world, id, Decision::Allow).await;
    let came = agent.until_ready(1).await;
    assert!(came.text().contains("23505"), "{came:?}");
    assert_eq!(agent.query("select 1").await.tags, "TDCZ");
    drop(agent);
    let records = world.records().await;
    let lost = records
        .iter()
        .find(|one| one["summary"] == "insert into users_of values (77)");
    assert!(lost.is_some());
    let done = records
        .iter()
        .filter(|one| one["cause"] == "approved")
        .map(|one| one["outcome"]["status"].as_str().unwrap().to_owned());
    assert_eq!(done.collect::<Vec<_>>(), ["ERROR 23503", "NOT SENT"]);
}

#[tokio::test]
async fn an_error_shows_no_value_that_is_masked() {
    let (server, world) = world(ENDPOINT).await;
    let mut agent = Raw::enter(world.address).await;
    for (text, want) in [
        ("update users set id = email::int", "22P02"),
        (
            "insert into users values (1, 'a', 'b')",
            "23505 table users constraint users_pkey",
        ),
    ] {
        agent.send(&query(text)).await;
        let (id, shown) = preview(&world).await;
        assert_eq!(shown["does"], json!({ "error": want }));
        decide(&world, id, Decision::Deny).await;
        agent.until_ready(1).await;
    }
    drop((agent, server));
}

#[tokio::test]
async fn nothing_is_tried_that_nobody_will_look_at() {
    use tailkeep::verdict::approval::Terms;
    use tailkeep::verdict::gate::PREVIEWS_PER_AGENT_MAX;
    let (server, world) = world(ENDPOINT).await;
    // So many of an agent at once; the next is asked for without.
    let mut agents = Vec::new();
    for number in 0..=PREVIEWS_PER_AGENT_MAX {
        let mut agent = Raw::enter(world.address).await;
        agent
            .send(&query(&format!("delete from users where id = {number}")))
            .await;
        agents.push(agent);
        while world.queue.list(false).await.unwrap().len() <= number {
            tokio::task::yield_now().await;
        }
    }
    let held = world.queue.list(false).await.unwrap();
    let last = &held.last().unwrap().question["preview"];
    assert!(
        last["none"].as_str().unwrap().contains("too many others"),
        "{last}"
    );
    assert_eq!(open_transactions(&server), PREVIEWS_PER_AGENT_MAX.to_string());
    // With a grant nobody is shown anything, and so nothing is tried before.
    let grant = Decide {
        id: held[0].id,
        person: "ann".into(),
        decision: Decision::Allow,
        reason: None,
        grant: Some(Terms::new(Some(60), None).unwrap()),
    };
    world.queue.decide(grant).await.unwrap();
    for agent in &mut agents {
        assert_eq!(agent.until_ready(1).await.tags, "CZ");
    }
    let came = agents[0]
        .query("update users set name = 'granted' where id = 4")
        .await;
    assert_eq!(came.tags, "CZ", "{came:?}");
    drop(agents);
    let records = world.records().await;
    let tried = records.iter().filter(|one| one["step"] == "preview").count();
    assert_eq!(tried, PREVIEWS_PER_AGENT_MAX);
}

/// Quiet hours and a full queue are looked at first: what would be refused all the same does not run, and locks nothing.
#[tokio::test]
async fn nothing_is_tried_in_quiet_hours_or_where_no_more_may_be_held() {
    use tailkeep::verdict::approval::PENDING_PER_AGENT_MAX;
    let (server, world) = world(ENDPOINT).await;
    let asking = |approver| Setup {
        endpoint: ENDPOINT,
        rules: ASKED,
        approver,
        ..SETUP
    };
    let time = |hours: i64| {
        let then = chrono::Utc::now() + chrono::TimeDelta::hours(hours);
        then.format("%H:%M").to_string()
    };
    let quiet = format!("quiet_hours = \"{}-{}\"", time(-2), time(2));
    world.reload(server.port, asking(&quiet));
    let mut agent = Raw::enter(world.address).await;
    for change in ["update users set name = 'x'", "select * from users"] {
        let came = agent.query(change).await;
        assert_eq!(came.tags, "EZ", "{came:?}");
        assert!(came.text().contains("nobody approved it in time"), "{came:?}");
    }
    // Where others are asked at these hours, it is tried for them.
    let later =
        format!("{quiet}\n  approvers = [\"bob\"]\n  escalate_after = \"9h\"\n  escalate_to = [\"ann\"]");
    world.reload(server.port, asking(&later));
    agent.send(&query("update users set name = 'x'")).await;
    let (id, shown) = preview(&world).await;
    assert_eq!(shown["does"]["rows"], 4, "{shown}");
    decide(&world, id, Decision::Deny).await;
    assert_eq!(agent.until_ready(1).await.tags, "EZ");
    drop(agent);
    let records = world.records().await;
    let tried = records.iter().filter(|one| one["step"] == "preview").count();
    assert_eq!(tried, 1, "{records:?}");

    world.reload(server.port, asking(""));
    let mut agents = Vec::new();
    for number in 0..PENDING_PER_AGENT_MAX {
        let mut agent = Raw::enter(world.address).await;
        // Never tried, whatever it is.
        agent.send(&query("truncate users")).await;
        agents.push(agent);
        let many = usize::try_from(number).unwrap();
        while world.queue.list(false).await.unwrap().len() <= many {
            tokio::task::yield_now().await;
        }
    }
    let mut agent = Raw::enter(world.address).await;
    for change in ["delete from users where id = 1", "select * from users"] {
        let came = agent.query(change).await;
        assert_eq!(came.tags, "EZ", "{came:?}");
        assert!(came.text().contains("cannot be judged right now"), "{came:?}");
    }
    assert_eq!(open_transactions(&server), "0");
    drop((agents, agent));
    let again = world.records().await;
    let full = again.iter().filter(|one| {
        let detail = one["detail"].as_str().unwrap_or_default();
        detail.contains("this agent has 32 actions held already")
    });
    assert_eq!(full.count(), 2);
    let tried = again.iter().filter(|one| one["step"] == "preview").count();
    assert_eq!(tried, 1, "{again:?}");
}

#[tokio::test]
async fn an_ask_that_was_taken_back_is_none_of_the_next_statement() {
    let (server, world) = world(ENDPOINT).await;
    let mut agent = Raw::enter(world.address).await;
    for _ in 0..20 {
        // Cancelled wherever it is by then: asked for, on its way, tried or held.
        agent.send(&query("delete from users where id = 1")).await;
        cancel(world.address, &agent.key).await;
        let came = agent.until_ready(1).await;
        assert!(came.text().contains("57014"), "{came:?}");
    }
    agent.send(&query("delete from users where id = 1")).await;
    let (id, shown) = preview(&world).await;
    assert_eq!(shown["does"]["rows"], 1, "{shown}");
    decide(&world, id, Decision::Allow).await;
    assert_eq!(agent.until_ready(1).await.tags, "CZ");
    assert_eq!(server.says(COUNT), "3");
    drop(agent);
    let records = world.records().await;
    let tried = records
        .iter()
        .filter(|one| one["step"] == "preview" && one["verdict"] == "allow");
    for one in tried {
        assert!(!one["outcome"]["status"].is_null(), "{one}");
    }
}

#[tokio::test]
async fn a_yes_to_an_error_is_none_to_what_happens_without_it() {
    let (server, world) = world(ENDPOINT).await;
    assert!(
        server.sql("create table knobs (n int); insert into knobs values (0); grant all on knobs to app")
    );
    let mut agent = Raw::enter(world.address).await;
    agent
        .send(&query("delete from users where 1 / (select n from knobs) > 0"))
        .await;
    let (id, shown) = preview(&world).await;
    assert!(
        shown["does"]["error"].as_str().unwrap().starts_with("22012"),
        "{shown}"
    );
    assert!(server.sql("update knobs set n = 1"));
    decide(&world, id, Decision::Allow).await;
    let came = agent.until_ready(1).await;
    assert!(came.tags == "EZ" && came.text().contains("42501"), "{came:?}");
    assert_eq!(server.says(COUNT), "4");
}

#[tokio::test]
async fn the_extended_protocol_is_served_alike() {
    let (server, world) = world(ENDPOINT).await;
    let mut agent = Raw::enter(world.address).await;
    let run = [
        parse("", "delete from users where id <= $1"),
        bind("", "", &["2"]),
        execute("", 0),
        sync(),
    ];
    agent.send(&run.concat()).await;
    let (id, shown) = preview(&world).await;
    assert_eq!(shown["does"]["tag"], "DELETE 2", "{shown}");
    assert_eq!(shown["sample"][0][0], "1", "{shown}");
    assert!(!shown.to_string().contains("example.com"));
    assert_eq!(server.says(COUNT), "4");
    decide(&world, id, Decision::Allow).await;
    let came = agent.until_ready(1).await;
    assert_eq!(came.tags, "12CZ");
    assert_eq!(server.says(COUNT), "2");
    // The unnamed statement is still the agent's; no is said in its words.
    agent
        .send(&[bind("", "", &["3"]), execute("", 0), sync()].concat())
        .await;
    let (id, shown) = preview(&world).await;
    assert_eq!(shown["does"]["rows"], 1, "{shown}");
    decide(&world, id, Decision::Deny).await;
    let came = agent.until_ready(1).await;
    assert_eq!(came.tags, "EZ");
    assert!(came.text().contains("42501"), "{came:?}");
    assert_eq!(server.says(COUNT), "2");
    // Inside a transaction as well, be it approved or not.
    for (decision, tags) in [(Decision::Allow, "12CZ"), (Decision::Deny, "1EZ")] {
        agent.query("begin").await;
        agent
            .send(
                &[
                    parse("", "delete from users where id <= $1"),
                    bind("", "", &["3"]),
                    execute("", 0),
                    sync(),
                ]
                .concat(),
            )
            .await;
        let (id, shown) = preview(&world).await;
        assert_eq!(shown["does"]["rows"], 1, "{shown}");
        decide(&world, id, decision).await;
        let came = agent.until_ready(1).await;
        assert_eq!(came.tags, tags);
        agent.query("rollback").await;
    }
    // In a pipeline with others it is not tried: they would share its fate.
    let pipeline = [
        parse("", "select 1"),
        bind("", "", &[]),
        execute("", 0),
        parse("", "delete from users"),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ];
    agent.send(&pipeline.concat()).await;
    let (id, shown) = preview(&world).await;
    assert!(shown["none"].as_str().unwrap().contains("pipeline"), "{shown}");
    decide(&world, id, Decision::Deny).await;
    agent.until_ready(1).await;
    assert_eq!(agent.query("select 1").await.tags, "TDCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_notices_nothing() {
    let (server, world) = world(ENDPOINT).await;
    let script = r#"
import os, psycopg
with psycopg.connect(os.environ['URL']) as conn:
    cur = conn.execute("update users set name = %s where id = %s", ('new', 1), prepare=True)
    print(cur.rowcount)
    cur = conn.execute("delete from users where id = %s returning id", (2,))
    print(cur.fetchall())
"#;
    let approve = async {
        for _ in 0..2 {
            let (id, shown) = preview(&world).await;
            assert_eq!(shown["does"]["rows"], 1, "{shown}");
            assert_eq!(server.says("select count(*) from users where name = 'new'"), "0");
            decide(&world, id, Decision::Allow).await;
            let gone = async {
                while world
                    .queue
                    .list(false)
                    .await
                    .unwrap()
                    .iter()
                    .any(|one| one.id == id)
                {
                    tokio::task::yield_now().await;
                }
            };
            gone.await;
        }
    };
    let said = tokio::select! {
        said = psycopg(&world, script) => said,
        () = async { approve.await; std::future::pending().await } => String::new(),
    };
    assert!(said.contains("1 [(2,)]"), "{said}");
    assert_eq!(server.says("select count(*) from users where name = 'new'"), "1");
    assert_eq!(server.says(COUNT), "3");
}

/// What drivers send in binary and no rule reads: whoever decides sees it, or is not asked.
#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_no_rule_reads_are_shown_to_who_decides() {
    let (server, world) = world(ENDPOINT).await;
    let script = r#"
import datetime, decimal, os, psycopg
with psycopg.connect(os.environ['URL'], autocommit=True) as conn:
    cur = conn.execute("delete from users where id = any(%b) and name <> all(%b) and date '2026-01-01' > %b and id < %b",
        ([1, 2], ["a, b"], datetime.date(2001, 2, 3), decimal.Decimal("10.50")))
    print(cur.rowcount)
"#;
    let approve = async {
        let (id, shown) = preview(&world).await;
        let held = world.queue.show(id).await.unwrap().unwrap();
        assert_eq!(
            held.question["facts"]["parameters"],
            json!({ "unknown": "opaque", "shown": ["{\"1\", \"2\"}", "{\"a, b\"}", "2001-02-03", "10.50"] })
        );
        assert_eq!(shown["does"]["rows"], 2, "{shown}");
        decide(&world, id, Decision::Allow).await;
    };
    let said = tokio::select! {
        said = psycopg(&world, script) => said,
        () = async { approve.await; std::future::pending().await } => String::new(),
    };
    assert_eq!(said, "2 | ");
    assert_eq!(server.says(COUNT), "2");
    // A function's call by its number: its arguments are nobody's to see.
    let mut agent = Raw::enter(world.address).await;
    let call = [&1_598_u32.to_be_bytes()[..], &[0, 0, 0, 0, 0, 0]].concat();
    agent
        .send(&tailkeep::protocol::postgres::wire::message(b'F', &call))
        .await;
    let came = agent.until_ready(1).await;
    assert!(came.text().contains("or cannot be shown"), "{came:?}");
}

#[tokio::test]
async fn nothing_is_tried_where_it_is_not_asked_for() {
    let (server, world) = world("sslmode = \"disable\"").await;
    let mut agent = Raw::enter(world.address).await;
    agent.send(&query("delete from users")).await;
    let (id, shown) = preview(&world).await;
    assert_eq!(shown, Value::Null);
    assert_eq!(open_transactions(&server), "0");
    decide(&world, id, Decision::Deny).await;
    assert_eq!(agent.until_ready(1).await.tags, "EZ");
}
