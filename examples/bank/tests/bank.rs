//! The bank from end to end, without a browser: forms in, pages out, a real PostgreSQL and a real Kafka in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context, Result, anyhow};
use event_outbox_lab::wait;
use postgres::{Client, NoTls};
use support::{Bank, SHOWN};
use uuid::Uuid;

/// The bank that all tests share. They count its transfers, so one runs at a time.
fn bank() -> Result<MutexGuard<'static, Bank>> {
    static BANK: OnceLock<Result<Mutex<Bank>>> = OnceLock::new();
    match BANK.get_or_init(|| Bank::open(&[]).map(Mutex::new)) {
        Ok(bank) => Ok(bank.lock().unwrap_or_else(PoisonError::into_inner)),
        Err(error) => Err(anyhow!("the bank did not open: {error:#}")),
    }
}

fn command() -> String {
    Uuid::new_v4().to_string()
}

/// The items of the list of transfers.
fn journeys(page: &str) -> Vec<&str> {
    page.split("<div class=\"who\">").skip(1).collect()
}

fn agree(bank: &Bank) -> Result<()> {
    bank.shows("/operations", "the books to agree", |page| page.contains("The books agree"))?;
    Ok(())
}

#[test]
fn a_transfer_goes_all_the_way_once() -> Result<()> {
    let bank = bank()?;
    let from = bank.account("Edda Lind", "DE", "500")?;
    let to = bank.account("Femi Ade", "FR", "20.50")?;
    let once = command();
    for _ in 0..3 {
        // As if the button had been pressed again.
        assert_eq!(bank.transfer(&once, &from, &to, "70.25")?.status, 303);
    }
    let page = bank.shows(&format!("/?done={once}"), "the transfer to be checked", |page| {
        journeys(page).first().is_some_and(|way| way.matches("class=\"reached\"").count() == 4)
    })?;
    assert!(page.contains("Edda Lind has sent 70.25 to Femi Ade."), "{page}");
    assert_eq!(page.matches("Edda Lind</strong>").count(), 1, "{page}");
    let is_projected = |page: &str| page.contains("429.75") && page.contains("90.75");
    bank.shows("/", "the balances", is_projected)?;
    let statement = bank.page(&format!("/accounts/{to}"))?;
    assert!(statement.contains("<wbr>received<") && statement.contains("version 2"), "{statement}");
    agree(&bank)
}

#[test]
fn a_rule_that_refuses_says_why_and_keeps_what_was_written() -> Result<()> {
    let bank = bank()?;
    let from = bank.account("Gita Rao", "AT", "10")?;
    let to = bank.account("Hugo Sand", "CH", "10")?;
    for (amount, why) in [
        ("10.01", "has 10.00, which is too little"),
        ("0", "An amount is between"),
        ("ten", "Write the amount as digits"),
        ("60000", "which is too little"),
    ] {
        let answer = bank.transfer(&command(), &from, &to, amount)?;
        assert_eq!(answer.status, 422, "{amount}");
        assert!(answer.body.contains(why), "{amount}: {}", answer.body);
        assert!(answer.body.contains(&format!("name=\"amount\" value=\"{amount}\"")), "{}", answer.body);
        assert!(answer.body.contains(&format!("<option value=\"{from}\" selected>")), "{}", answer.body);
    }
    assert_eq!(bank.transfer(&command(), &from, &from, "1")?.status, 422);
    // What people write is text, whatever it looks like.
    let name = "<script>alert(1)</script>'; DROP TABLE account.owner; --";
    bank.account(name, "DE", "1")?;
    let page = bank.page("/")?;
    assert!(!page.contains("<script>alert") && page.contains("&#60;script&#62;"), "{page}");
    Ok(())
}

#[test]
fn other_pages_change_nothing() -> Result<()> {
    let bank = bank()?;
    let own = bank.host();
    for (host, origin) in [
        (own.as_str(), None),
        (own.as_str(), Some("http://evil.example")),
        (own.as_str(), Some("null")),
        ("evil.example", Some("http://evil.example")),
    ] {
        let answer = bank.ask("POST", "/reactor/rebuild", host, origin, "")?;
        assert_eq!(answer.status, 403, "{host} {origin:?}");
    }
    assert_eq!(bank.ask("GET", "/", "evil.example", None, "")?.status, 403);
    let head = bank.get("/")?.head.to_lowercase();
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert_eq!(bank.get("/nowhere")?.status, 404);
    Ok(())
}

#[test]
fn what_cannot_be_checked_is_kept_and_checked_when_the_cause_is_mended() -> Result<()> {
    let bank = bank()?;
    // The reactor knows no risk of Norway.
    let from = bank.account("Ines Berg", "NO", "100")?;
    let to = bank.account("Jon Falk", "DE", "100")?;
    assert_eq!(bank.transfer(&command(), &from, &to, "5")?.status, 303);
    let page = bank.shows("/reactor", "the dead letter", |page| page.contains("after 5 attempts"))?;
    assert!(page.contains("no risk is known for country NO"), "{page}");
    // Others are not held up.
    assert_eq!(bank.transfer(&command(), &to, &from, "6")?.status, 303);
    bank.shows("/", "the other transfer to be checked", |page| {
        journeys(page).first().is_some_and(|way| way.matches("class=\"reached\"").count() == 4)
    })?;
    bank.succeed("/reactor/country", &[("country", "NO"), ("risk", "low")])?;
    bank.shows("/reactor", "no dead letter", |page| page.contains("Every transfer could be checked"))?;
    agree(&bank)
}

#[test]
fn an_alarm_comes_back_as_a_review() -> Result<()> {
    let bank = bank()?;
    let from = bank.account("Kim Ost", "DE", "40000")?;
    let to = bank.account("Lea Noor", "DE", "1")?;
    assert_eq!(bank.transfer(&command(), &from, &to, "12000")?.status, 303);
    let account = format!("/accounts/{from}");
    bank.shows(&account, "the review", |page| page.contains("In review."))?;
    assert!(bank.page("/reactor")?.contains("a large amount"));
    let refused = bank.transfer(&command(), &from, &to, "1")?;
    assert!(refused.status == 422 && refused.body.contains("is in review"), "{}", refused.body);
    bank.succeed(&format!("{account}/review"), &[])?;
    assert_eq!(bank.transfer(&command(), &from, &to, "1")?.status, 303);

    // The reactor hears that an address has changed, and not to what.
    let secret = "kim.secret@example.com";
    bank.succeed(&format!("{account}/email"), &[("email", secret)])?;
    let mut reactor = connect(&bank, "reactor", "reactor_service")?;
    wait::until_ok("the notification", SHOWN, || {
        let known: i64 = reactor.query_one("SELECT count(*) FROM reactor.contact_change", &[])?.get(0);
        Ok((known > 0).then_some(()))
    })?;
    assert_eq!(bank.transfer(&command(), &from, &to, "1500")?.status, 303);
    bank.shows("/reactor", "the finding", |page| page.contains("soon after a change of address"))?;
    let mut everything = connect(&bank, "reactor", "postgres")?;
    let sql = "SELECT count(*) FROM inbox.log WHERE position(convert_to($1, 'UTF8') IN value) > 0";
    assert_eq!(everything.query_one(sql, &[&secret])?.get::<_, i64>(0), 0);
    agree(&bank)
}

#[test]
fn nothing_is_lost_while_parts_are_stopped() -> Result<()> {
    let bank = bank()?;
    let from = bank.account("Mia Holm", "DE", "1000")?;
    let to = bank.account("Nils Iver", "DE", "1000")?;
    let send = |amount: &str| -> Result<()> {
        let answer = bank.transfer(&command(), &from, &to, amount)?;
        assert_eq!(answer.status, 303, "{}", answer.body);
        Ok(())
    };
    let switch = |part: &str, on: &str| bank.succeed(&format!("/operations/{part}"), &[("on", on)]);
    switch("relay", "false")?;
    send("1")?;
    bank.shows("/", "the transfer to wait", |page| {
        journeys(page).first().is_some_and(|way| way.contains("waits in the outbox"))
    })?;
    switch("kafka", "false")?;
    bank.shows("/operations", "Kafka to stop", |page| page.contains("Start Kafka"))?;
    switch("relay", "true")?;
    send("2")?;
    switch("reactor", "false")?;
    switch("kafka", "true")?;
    bank.shows("/operations", "Kafka to run", |page| page.contains("Stop Kafka"))?;
    send("3")?;
    bank.shows("/", "the reactor to be waited for", |page| {
        journeys(page).first().is_some_and(|way| way.contains("waits for the reactor"))
    })?;
    switch("reactor", "true")?;
    agree(&bank)?;
    bank.succeed("/operations/traffic", &[])?;
    bank.shows("/operations", "the traffic", |page| {
        page.contains("200 made") || page.contains("refused by")
    })?;
    agree(&bank)?;
    // A rebuild comes to the same result, and gives no alarm twice.
    let mut reactor = connect(&bank, "reactor", "postgres")?;
    let alarms = "SELECT count(*) FROM reactor.alarm";
    let before: i64 = reactor.query_one(alarms, &[])?.get(0);
    bank.succeed("/reactor/rebuild", &[])?;
    agree(&bank)?;
    bank.shows("/reactor", "the copy", |page| page.contains("complete, and follows"))?;
    assert_eq!(reactor.query_one(alarms, &[])?.get::<_, i64>(0), before);
    // The balances of the projection are those that follow from the streams.
    let mut books = connect(&bank, "bank", "postgres")?;
    let differing = "SELECT count(*) FROM account.account AS n CROSS JOIN transactions.account(n.number) AS a
                            LEFT JOIN transactions.balance AS b ON b.number = n.number
                      WHERE a.balance IS DISTINCT FROM b.balance OR a.version IS DISTINCT FROM b.version";
    wait::until_ok("the projection", SHOWN, || {
        Ok((books.query_one(differing, &[])?.get::<_, i64>(0) == 0).then_some(()))
    })
}

#[test]
fn each_role_has_the_rights_that_it_needs() -> Result<()> {
    let bank = bank()?;
    let mut admin = connect(&bank, "bank", "postgres")?;
    let superusers = "SELECT count(*) FROM pg_roles WHERE rolsuper AND rolname <> 'postgres'";
    assert_eq!(admin.query_one(superusers, &[])?.get::<_, i64>(0), 0);
    for (database, role, sql) in [
        ("bank", "teller", "SELECT FROM account.contact"),
        ("bank", "teller", "UPDATE transactions.balance SET balance = 1000000"),
        ("bank", "teller", "SELECT FROM outbox.events"),
        ("bank", "teller", "SELECT outbox.pause()"),
        ("bank", "teller", "SELECT outbox.emit('bank.transfers', '{}'::jsonb)"),
        (
            "bank",
            "teller",
            "SELECT event_store.append('account-1001', 'any', '{\"type\": \"money.deposited\"}')",
        ),
        ("bank", "operator", "SELECT FROM account.accounts"),
        ("bank", "operator", "SELECT transactions.deposit(gen_random_uuid(), 1001, 1)"),
        ("bank", "account_service", "SELECT FROM transactions.balance"),
        ("bank", "transactions_service", "SELECT outbox.emit('bank.owners', '{}'::jsonb)"),
        ("reactor", "operator", "DELETE FROM reactor.transfer"),
        ("reactor", "operator", "SELECT FROM inbox.receive('transfers')"),
        ("reactor", "reactor_service", "SELECT outbox.emit('bank.transfers', '{}'::jsonb)"),
    ] {
        let error = connect(&bank, database, role)?.batch_execute(sql).expect_err(sql);
        let code = error.code().with_context(|| format!("{sql}: {error}"))?;
        assert_eq!(code.code(), "42501", "{role}: {sql}: {error}");
    }
    Ok(())
}

#[test]
fn it_closes_by_itself() -> Result<()> {
    let mut bank = Bank::open(&["--seconds", "1"])?;
    let ports = [bank.port, bank.postgres()?];
    assert!(bank.ended()?, "{}", bank.output());
    assert!(bank.output().contains("It closes by itself in 1 seconds"), "{}", bank.output());
    for port in ports {
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "{port} still answers");
    }
    Ok(())
}

fn connect(bank: &Bank, database: &str, role: &str) -> Result<Client> {
    let parameters = format!("host=127.0.0.1 port={} dbname={database} user={role}", bank.postgres()?);
    Client::connect(&parameters, NoTls).with_context(|| format!("connect to {database} as {role}"))
}
