//! The pages.

use std::collections::HashMap;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use uuid::Uuid;

use super::App;
use super::views::{
    AccountPage, AccountsPage, COUNTRIES, ErrorPage, Failed, OpenForm, OperationsPage, Problem, Pulse,
    ReactorPage, TransferForm, show,
};
use crate::journeys;

/// What a page is told by the action that leads to it.
#[derive(Default, Deserialize)]
pub struct Done {
    /// The command that was carried out.
    done: Option<Uuid>,
}

/// All accounts, the forms, and the newest transfers.
pub async fn accounts(State(app): State<App>, Query(done): Query<Done>) -> Result<Response, Failed> {
    let transfer = TransferForm { command: Uuid::new_v4(), ..TransferForm::default() };
    let opening = OpenForm {
        command: Uuid::new_v4(),
        deposit: "1000.00".into(),
        daily_limit: "50000.00".into(),
        ..OpenForm::default()
    };
    accounts_with(&app, transfer, opening, None, done.done).await
}

/// The same page with what was given in its forms, and a problem.
pub async fn accounts_with(
    app: &App,
    transfer: TransferForm,
    opening: OpenForm,
    problem: Option<Problem>,
    done: Option<Uuid>,
) -> Result<Response, Failed> {
    let pulse = Pulse::take(app, "/").await?;
    let accounts = app.bank.accounts().await?;
    let names: HashMap<i64, String> =
        accounts.iter().map(|account| (account.number, account.name.clone())).collect();
    let App { bank, operations, reactor, live, .. } = app;
    let is_paused = pulse.reactor.is_paused;
    let journeys = journeys::newest(bank, operations, reactor, &live.heard, &names, is_paused).await?;
    let status = if problem.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let countries = &COUNTRIES;
    let page = AccountsPage { pulse, accounts, journeys, transfer, opening, problem, done, countries };
    Ok(show(status, &page))
}

/// One account with all its events.
pub async fn account(State(app): State<App>, Path(number): Path<i64>) -> Result<Response, Failed> {
    account_with(&app, number, None).await
}

/// The same page with a new address that was refused.
pub async fn account_with(
    app: &App,
    number: i64,
    refused: Option<(String, Problem)>,
) -> Result<Response, Failed> {
    let pulse = Pulse::take(app, format!("/accounts/{number}")).await?;
    let Some(account) = app.bank.accounts().await?.into_iter().find(|account| account.number == number)
    else {
        return Ok(not_found().await);
    };
    let (entries, sent_today) = tokio::try_join!(app.bank.statement(number), app.bank.sent_today(number))?;
    let status = if refused.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let (email, problem) = match refused {
        Some((email, problem)) => (email, Some(problem)),
        None => (account.email.clone(), None),
    };
    Ok(show(status, &AccountPage { pulse, account, sent_today, entries, problem, email }))
}

/// What the reactor knows and has found.
pub async fn reactor(State(app): State<App>) -> Result<Response, Failed> {
    let pulse = Pulse::take(&app, "/reactor").await?;
    let (owners, flagged, dead_letters) =
        tokio::try_join!(app.reactor.owners(), app.reactor.flagged(), app.reactor.dead_letters())?;
    Ok(show(StatusCode::OK, &ReactorPage { pulse, owners, flagged, dead_letters }))
}

/// The switches, and the books of both databases beside each other.
pub async fn operations(State(app): State<App>) -> Result<Response, Failed> {
    // The books first: a transfer in between is then one that is on its way.
    let pulse = Pulse::take(&app, "/operations").await?;
    let (transfers, money) = app.bank.totals().await?;
    let traffic = app.traffic.progress();
    Ok(show(StatusCode::OK, &OperationsPage { pulse, transfers, money, traffic }))
}

/// Any other address.
pub async fn not_found() -> Response {
    let text = "There is nothing at this address.".into();
    show(StatusCode::NOT_FOUND, &ErrorPage { title: "Not found", text })
}
