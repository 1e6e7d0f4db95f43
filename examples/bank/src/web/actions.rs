//! What the forms do. Each leads to a page, which can be asked for again without doing it twice.

use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::App;
use super::pages::{account_with, accounts_with};
use super::views::{Failed, OpenForm, Problem, TransferForm};
use crate::bank::{NewAccount, Order, Refusal};

/// The longest reference of a transfer.
const REFERENCE: usize = 80;
/// Digits before the decimal point.
const DIGITS: usize = 7;

/// A button that turns something on or off.
#[derive(Deserialize)]
pub struct Switch {
    on: bool,
}

/// The risk of a country.
#[derive(Deserialize)]
pub struct Risk {
    country: String,
    risk: String,
}

/// A new address.
#[derive(Deserialize)]
pub struct Email {
    email: String,
}

/// Opens an account.
pub async fn open(State(app): State<App>, Form(form): Form<OpenForm>) -> Result<Response, Failed> {
    let outcome = match (money(&form.deposit), money(&form.daily_limit)) {
        (Some(deposit), Some(daily_limit)) => {
            let new = NewAccount {
                name: form.name.trim().into(),
                email: form.email.trim().into(),
                country: form.country.clone(),
                daily_limit,
                deposit,
            };
            match fault(&new) {
                None => app.bank.open(form.command, &new).await,
                Some(fault) => Err(Refusal::Rule(fault.into())),
            }
        }
        _ => Err(Refusal::Rule("Write amounts as digits, such as 250 or 99.50.".into())),
    };
    match outcome {
        Ok(number) => {
            app.live.tell();
            Ok(Redirect::to(&format!("/accounts/{number}")).into_response())
        }
        Err(Refusal::Failure(error)) => Err(error.into()),
        Err(Refusal::Rule(text)) => {
            let transfer = TransferForm { command: uuid::Uuid::new_v4(), ..TransferForm::default() };
            accounts_with(&app, transfer, form, Some(Problem { form: "open", text }), None).await
        }
    }
}

/// Transfers money.
pub async fn transfer(State(app): State<App>, Form(form): Form<TransferForm>) -> Result<Response, Failed> {
    let outcome = match order(&form) {
        Ok(order) => app.bank.transfer(&order).await,
        Err(text) => Err(Refusal::Rule(text.into())),
    };
    match outcome {
        Ok(_) => {
            app.live.tell();
            Ok(Redirect::to(&format!("/?done={}#transfers", form.command)).into_response())
        }
        Err(Refusal::Failure(error)) => Err(error.into()),
        Err(Refusal::Rule(text)) => {
            let opening = OpenForm { command: uuid::Uuid::new_v4(), ..OpenForm::default() };
            accounts_with(&app, form, opening, Some(Problem { form: "transfer", text }), None).await
        }
    }
}

/// Changes the address of an account's owner.
pub async fn change_email(
    State(app): State<App>,
    Path(number): Path<i64>,
    Form(form): Form<Email>,
) -> Result<Response, Failed> {
    let outcome = if is_email(&form.email) {
        app.bank.change_email(number, form.email.trim()).await
    } else {
        Err(Refusal::Rule("Write an address, such as ada@example.com.".into()))
    };
    match outcome {
        Ok(()) => Ok(Redirect::to(&format!("/accounts/{number}")).into_response()),
        Err(Refusal::Failure(error)) => Err(error.into()),
        Err(Refusal::Rule(text)) => {
            account_with(&app, number, Some((form.email, Problem { form: "email", text }))).await
        }
    }
}

/// Lets an account send money again.
pub async fn end_review(State(app): State<App>, Path(number): Path<i64>) -> Result<Response, Failed> {
    match app.bank.end_review(number).await {
        Err(Refusal::Failure(error)) => Err(error.into()),
        _ => Ok(Redirect::to(&format!("/accounts/{number}")).into_response()),
    }
}

/// Builds what the reactor knows anew.
pub async fn rebuild(State(app): State<App>) -> Result<Response, Failed> {
    app.reactor.rebuild().await?;
    Ok(Redirect::to("/reactor").into_response())
}

/// Has dead letters handled again.
pub async fn redrive(State(app): State<App>) -> Result<Response, Failed> {
    app.reactor.redrive().await?;
    Ok(Redirect::to("/reactor").into_response())
}

/// Says how risky a country is, and has handled again what failed for want of it.
pub async fn set_risk(State(app): State<App>, Form(form): Form<Risk>) -> Result<Response, Failed> {
    app.reactor.set_risk(&form.country, &form.risk).await?;
    app.reactor.redrive().await?;
    Ok(Redirect::to("/reactor").into_response())
}

/// Stops or starts publishing.
pub async fn switch_relay(State(app): State<App>, Form(form): Form<Switch>) -> Result<Response, Failed> {
    app.operations.switch(form.on).await?;
    app.live.tell();
    Ok(Redirect::to("/operations").into_response())
}

/// Stops or starts Kafka, which takes a few seconds: the page shows how it goes.
pub async fn switch_kafka(State(app): State<App>, Form(form): Form<Switch>) -> Response {
    let (stage, live) = (app.stage.clone(), app.live.clone());
    tokio::task::spawn_blocking(move || {
        if let Err(error) = stage.switch_kafka(form.on) {
            eprintln!("error: {error:#}");
        }
        live.tell();
    });
    Redirect::to("/operations").into_response()
}

/// Stops or starts the reactor.
pub async fn switch_reactor(State(app): State<App>, Form(form): Form<Switch>) -> Result<Response, Failed> {
    app.reactor.switch(form.on).await?;
    app.live.tell();
    Ok(Redirect::to("/operations").into_response())
}

/// Makes many transfers, in the background.
pub async fn traffic(State(app): State<App>) -> Response {
    tokio::spawn(async move {
        if let Err(error) = app.traffic.run(&app.bank).await {
            eprintln!("error: {error:#}");
        }
        app.live.tell();
    });
    Redirect::to("/operations").into_response()
}

fn order(form: &TransferForm) -> Result<Order, &'static str> {
    let account = |number: &str| number.parse().map_err(|_| "Choose two accounts.");
    let amount = money(&form.amount).ok_or("Write the amount as digits, such as 250 or 99.50.")?;
    if form.reference.chars().count() > REFERENCE || form.reference.contains('\0') {
        return Err("A reference has at most 80 characters.");
    }
    Ok(Order {
        command: form.command,
        source: account(&form.source)?,
        target: account(&form.target)?,
        amount,
        reference: form.reference.trim().into(),
    })
}

fn fault(new: &NewAccount) -> Option<&'static str> {
    if new.name.is_empty() || new.name.chars().count() > 60 || new.name.contains('\0') {
        Some("A name has 1 to 60 characters.")
    } else if !is_email(&new.email) {
        Some("Write an address, such as ada@example.com.")
    } else if new.country.len() != 2 || !new.country.bytes().all(|letter| letter.is_ascii_uppercase()) {
        Some("Choose a country.")
    } else {
        None
    }
}

fn is_email(text: &str) -> bool {
    let text = text.trim();
    let is_plain = !text.contains(|letter: char| letter.is_whitespace() || letter == '\0');
    is_plain
        && text.len() <= 120
        && text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
}

/// The amount as PostgreSQL reads it; none if it is not digits with at most two decimals.
fn money(text: &str) -> Option<String> {
    let text = text.trim().replace([',', ' ', '\u{a0}'], "");
    let (whole, cents) = text.split_once('.').unwrap_or((&text, ""));
    let are_digits = |part: &str| part.bytes().all(|digit| digit.is_ascii_digit());
    let is_money = !whole.is_empty() && whole.len() <= DIGITS && cents.len() <= 2;
    (is_money && are_digits(whole) && are_digits(cents)).then(|| text.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_digits_with_at_most_two_decimals() {
        for (given, read) in [("250", "250"), (" 99.50 ", "99.50"), ("1,000.5", "1000.5"), ("7.", "7")] {
            assert_eq!(money(given).as_deref(), Some(read), "{given}");
        }
        for given in ["", ".", "-5", "1e3", "1.234", "NaN", "12345678", "1.2.3", "١"] {
            assert_eq!(money(given), None, "{given}");
        }
    }

    #[test]
    fn addresses_have_two_parts() {
        assert!(is_email("ada@example.com"));
        for given in ["", "ada", "@", "a@", "@b", "a b@c", "a\0@b"] {
            assert!(!is_email(given), "{given:?}");
        }
    }
}
