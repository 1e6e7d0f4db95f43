//! The web application: pages that the server renders, forms, and one stream of events that says when to look again.

mod actions;
mod guard;
mod pages;
mod traffic;
mod views;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::middleware::from_fn;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::net::TcpListener;

use crate::bank::Bank;
use crate::live::Live;
use crate::operations::Operations;
use crate::reactor::Reactor;
use crate::stage::Stage;

/// Changes that come closer to each other are told once.
const GATHER: Duration = Duration::from_millis(60);

/// What the pages need.
#[derive(Clone)]
struct App {
    stage: Arc<Stage>,
    bank: Bank,
    reactor: Reactor,
    operations: Operations,
    live: Live,
    traffic: Arc<traffic::Traffic>,
}

/// Serves the web application until it is dropped.
pub async fn serve(listener: TcpListener, stage: Arc<Stage>) -> Result<()> {
    let port = stage.port();
    let app = App {
        bank: Bank::new(port)?,
        reactor: Reactor::new(port)?,
        operations: Operations::new(port)?,
        live: Live::start(port),
        traffic: Arc::default(),
        stage,
    };
    Ok(axum::serve(listener, routes(app)).await?)
}

fn routes(app: App) -> Router {
    Router::new()
        .route("/", get(pages::accounts))
        .route("/accounts", post(actions::open))
        .route("/accounts/{number}", get(pages::account))
        .route("/accounts/{number}/email", post(actions::change_email))
        .route("/accounts/{number}/review", post(actions::end_review))
        .route("/transfers", post(actions::transfer))
        .route("/reactor", get(pages::reactor))
        .route("/reactor/rebuild", post(actions::rebuild))
        .route("/reactor/redrive", post(actions::redrive))
        .route("/reactor/country", post(actions::set_risk))
        .route("/operations", get(pages::operations))
        .route("/operations/relay", post(actions::switch_relay))
        .route("/operations/kafka", post(actions::switch_kafka))
        .route("/operations/reactor", post(actions::switch_reactor))
        .route("/operations/traffic", post(actions::traffic))
        .route("/live", get(live))
        .route("/style.css", get(style))
        .route("/live.js", get(script))
        .fallback(pages::not_found)
        .layer(from_fn(guard::guard))
        .with_state(app)
}

/// Says that something has changed, at once and then whenever it does. A page then asks for itself again.
async fn live(State(app): State<App>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = unfold((app.live.changes(), true), |(mut changes, is_first)| async move {
        if !is_first {
            changes.changed().await.ok()?;
            tokio::time::sleep(GATHER).await;
        }
        let count = *changes.borrow_and_update();
        Some((Ok(Event::default().event("change").data(count.to_string())), (changes, false)))
    });
    Sse::new(changes).keep_alive(KeepAlive::default())
}

async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("../../static/style.css"))
        .into_response()
}

async fn script() -> Response {
    let kind = [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")];
    (kind, include_str!("../../static/live.js")).into_response()
}
