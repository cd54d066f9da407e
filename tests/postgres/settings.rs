//! How the server reads text is pinned, whatever way it is reached for.

use crate::raw::{Raw, parse, query, run, sync};
use tailkeep::proxy::postgres::SETTINGS_MAX;

use crate::world::{SETUP, Setup, World, both, said, server};

const REFUSED: &str = "how the server reads text may not be changed here";

#[tokio::test]
async fn the_reading_of_text_may_not_be_changed() {
    let (_server, world) = both().await;
    let mut raw = Raw::enter(world.address).await;
    for text in [
        "set client_encoding = 'SJIS'",
        "SET \"Client_Encoding\" TO 'SJIS'",
        "set session client_encoding = sjis",
        "set names 'SJIS'",
        "set local standard_conforming_strings = off",
        "set standard_conforming_strings = 'off'",
        "select 1; set standard_conforming_strings to false",
        "select set_config('client_encoding', 'SJIS', false)",
        "select pg_catalog.set_config('STANDARD_conforming_strings', 'off', false)",
        "select set_config('client' || '_encoding', 'SJIS', false)",
        "select set_config(setting_name => 'client_encoding', new_value => 'SJIS', is_local => false)",
        "update pg_settings set setting = 'off' where name = 'standard_conforming_strings'",
        "update pg_catalog.pg_settings set setting = 'off'",
        "prepare p as select set_config($1, 'off', false)",
        "explain analyze select set_config('client_encoding', 'SJIS', false)",
    ] {
        let came = raw.query(text).await;
        assert_eq!(came.tags, "EZ", "{text}: {came:?}");
        assert!(came.text().contains(REFUSED), "{text}: {came:?}");
        if !text.contains(';') {
            let came = raw.ask(&[parse("", text), sync()]).await;
            assert_eq!(came.tags, "EZ", "{text}: {came:?}");
            assert!(came.text().contains(REFUSED), "{text}: {came:?}");
        }
    }
    for text in [
        "set client_encoding = 'UTF8'",
        "set names 'unicode'",
        "set client_encoding to default",
        "reset client_encoding",
        "set standard_conforming_strings = on",
        "reset all",
        "discard all",
        "select set_config('search_path', 'public', false)",
    ] {
        let came = raw.query(text).await;
        assert!(!came.tags.contains('E'), "{text}: {came:?}");
        for (setting, value) in [("client_encoding", "UTF8"), ("standard_conforming_strings", "on")] {
            let came = raw.query(&format!("show {setting}")).await;
            assert!(came.text().contains(value), "{text}: {came:?}");
        }
    }
}

#[tokio::test]
async fn what_a_function_hides_ends_the_connection() {
    let (server, world) = both().await;
    assert!(server.sql(
        "create function evil() returns text language sql as $$ select set_config('standard_conforming_strings', 'off', false) $$;
         create function tame() returns text language sql set standard_conforming_strings = off as $$ select 'a' $$;
         create view settings as select * from pg_settings; grant all on settings to app;
         create table t (x int); insert into t values (1); grant all on t to app",
    ));
    for evil in [
        "select evil()",
        "update settings set setting = 'off' where name = 'standard_conforming_strings'",
        "do $$ begin set client_encoding = 'SJIS'; end $$",
        "do $$ begin set standard_conforming_strings = off; end $$",
    ] {
        // What is sent behind it is not read the old way: it holds a backslash and has to wait.
        let trap = r"select '\'; delete from t; --'";
        let mut raw = Raw::enter(world.address).await;
        raw.send(&[query(evil), query(trap)].concat()).await;
        let came = raw.until_ready(9).await;
        assert!(came.text().contains("the server changed"), "{evil}: {came:?}");
        // In one pipeline the server reports nothing before Sync; a backslash is refused there.
        let mut raw = Raw::enter(world.address).await;
        raw.send(&[run(evil), run(trap), sync()].concat()).await;
        let came = raw.until_ready(1).await;
        assert!(came.text().contains("backslash"), "{evil}: {came:?}");
    }
    let mut raw = Raw::enter(world.address).await;
    let came = raw.query("select tame()").await;
    assert!(came.tags.ends_with("TDCZ"), "{came:?}");
    assert_eq!(server.says("select count(*) from t"), "1");
}

#[tokio::test]
async fn settings_of_the_role_and_of_the_start_do_not_change_it() {
    let (server, world) = both().await;
    for text in [
        "alter role app set client_encoding = 'SJIS'",
        "alter role app set standard_conforming_strings = off",
        "alter database postgres set standard_conforming_strings = off",
    ] {
        assert!(server.sql(text), "{text}");
    }
    let show = ["show client_encoding", "show standard_conforming_strings"];
    assert_eq!(world.said(&show).await, "UTF8 on | ");
    for (options, want) in [
        ("options=-c%20search_path%3Dpublic", "UTF8 on | "),
        ("client_encoding=UTF8", "UTF8 on | "),
        ("client_encoding=SJIS", "`client_encoding` may not be set here"),
        (
            "options=-c%20client_encoding%3DSJIS",
            "`client_encoding` may not be set here",
        ),
        (
            "options=--standard-conforming-strings%3Doff",
            "`standard_conforming_strings` may not be set here",
        ),
        ("replication=database", "replication connections are refused"),
    ] {
        let ran = world
            .psql_with(&format!("sslmode=disable&{options}"), &show)
            .await;
        let said = crate::world::said(&ran);
        assert!(said.contains(want), "{options}: {said}");
    }
}

/// What `options` says is what the server has, in each of the forms that it reads.
#[tokio::test]
async fn the_options_of_the_start_are_in_force() {
    let (_server, world) = both().await;
    let options = r"-c work_mem=7MB -crandom_page_cost=9 --statement-timeout=41s -c search_path=pg_temp,\ x"
        .replace(' ', "%20")
        .replace('\\', "%5C")
        .replace('=', "%3D");
    let ran = world
        .psql_with(
            &format!("sslmode=disable&options={options}"),
            &[
                "show work_mem",
                "show random_page_cost",
                "show statement_timeout",
                "show search_path",
            ],
        )
        .await;
    assert_eq!(said(&ran), "7MB 9 41s pg_temp, x | ");
}

const NO_SET: &str = r#"
rule "no-roles" {
  endpoint  = postgres.orders
  condition = "sql.role_change"
  verdict   = "deny"
  reason    = "no other roles here"
}
rule "no-set" {
  endpoint  = postgres.orders
  condition = "sql.verb == 'set' && !sql.statement.contains('public')"
  verdict   = "deny"
  reason    = "no settings here"
}
rule "rest" {
  endpoint = postgres.orders
  verdict  = "allow"
}
"#;

#[tokio::test]
async fn a_setting_of_the_start_is_judged_as_set() {
    let server = server(&[]).await;
    let setup = Setup {
        rules: NO_SET,
        ..SETUP
    };
    let world = World::new(server.port, setup).await;
    assert!(server.sql("create role clerk; grant clerk to app"));
    let many = (0..=SETTINGS_MAX).map(|n| format!("-c%20a.b{n}%3Dpublic%20"));
    for (options, want) in [
        (
            "application_name=x&options=-c%20datestyle%3DISO",
            "t | ".to_owned(),
        ),
        ("options=-c%20search_path%3Dpublic", "t | ".to_owned()),
        ("options=-c%20search_path%3Devil", "no settings here".to_owned()),
        ("options=-c%20app.tenant%3D7", "no settings here".to_owned()),
        // Who the session is, by the fact that SET ROLE has too.
        ("options=-c%20role%3Dclerk", "no other roles here".to_owned()),
        (
            "options=-c%20session-authorization%3Dpostgres",
            "no other roles here".to_owned(),
        ),
        (
            &format!("options={}", many.collect::<String>()),
            "too many settings".to_owned(),
        ),
    ] {
        let ran = world
            .psql_with(&format!("sslmode=disable&{options}"), &["select true"])
            .await;
        let said = said(&ran);
        assert!(said.contains(&want), "{options}: {said}");
    }
    let story = world.story().await;
    for line in [
        "SET search_path TO 'public' | allow | SET",
        "SET search_path TO 'evil' | deny | -",
        "SET app.tenant TO '7' | deny | -",
        "SET role TO 'clerk' | deny | -",
        "SET session_authorization TO 'postgres' | deny | -",
    ] {
        assert!(story.contains(&line.to_owned()), "{line}: {story:#?}");
    }
}
