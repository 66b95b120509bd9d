//! A server that answers with a model's predictions.
//!
//! | request | answer |
//! |---|---|
//! | `POST /predict` with rows in JSON | labels and outputs in JSON |
//! | `GET /health` | `ok` |
//! | `GET /model` | the fields and labels of the model |
//!
//! Why it exists: many clients send a row each, and a net computes 32 rows in little more time than one. So rows of requests that
//! are there at the same time are computed together. A row's prediction has the same bits whatever rows stand beside it
//! ([`Model`]), so nobody can tell.
//!
//! Some threads read requests and write answers, and go on with other connections while one has nothing to say. One thread computes:
//! it takes all rows that wait, and those of requests that are being read if they come within a moment. A request that comes alone
//! waits for nobody. Only so many requests are under way at a time, more are told to come again (503) at once, so the time that an
//! accepted one waits and the memory of all are bounded. Wrong requests are told what is wrong (400, 404, 405, 413), and who sends
//! nothing for long is not listened to any more (408).
//!
//! It is an example: it has no encryption and no accounts. Put a proxy in front.
#![forbid(unsafe_code)]

pub mod client;

mod batch;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cotangent::data::{Examples, Table};
use cotangent::graph::TensorData;
use cotangent::train::Model;
use cotangent::train::model::Interface;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::{Semaphore, oneshot};

/// What a server takes on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows that are computed together, at most (one request may have more).
    pub batch_rows: usize,
    /// How long rows wait at most for those of requests that are being read.
    pub batch_wait: Duration,
    /// Rows of a request, at most.
    pub request_rows: usize,
    /// Bytes of a request, at most.
    pub request_bytes: usize,
    /// Requests under way, at most; more are told to come again.
    pub requests: usize,
    /// Connections, at most; more wait to be accepted.
    pub connections: usize,
    /// How long the head of a request may take, and its body.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            batch_rows: 128,
            batch_wait: Duration::from_micros(200),
            request_rows: 1024,
            request_bytes: 16 << 20,
            requests: 256,
            connections: 1024,
            patience: Duration::from_secs(10),
        }
    }
}

/// What a server has done.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests that were answered with predictions.
    pub answered: AtomicU64,
    /// Requests that were told to come again.
    pub turned_away: AtomicU64,
    /// Batches that were computed.
    pub batches: AtomicU64,
}

/// Outputs by name, or what is wrong with the rows.
type Outputs = Result<BTreeMap<String, TensorData>, String>;

/// The rows of a request, and who waits for what is made of them.
struct Job {
    table: Table,
    answer: oneshot::Sender<Outputs>,
}

/// A server that is running. It ends when it is dropped, after what it has accepted.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    counts: Arc<Counts>,
    stop: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

/// Threads that read requests and write answers.
const READERS: usize = 2;
/// JSON of more bytes is read beside, so that other connections go on.
const MUCH: usize = 1 << 16;

impl Server {
    /// Serves a model at an address; port 0 is any that is free.
    ///
    /// # Errors
    /// The address cannot be had, or the system has no threads.
    pub fn start(model: Model, address: impl ToSocketAddrs, limits: Limits) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(READERS).enable_all().build()?;
        let counts = Arc::new(Counts::default());
        let (queue, jobs) = channel();
        let desk = Arc::new(Desk {
            interface: model.interface().clone(),
            limits,
            queue,
            under_way: Semaphore::new(limits.requests),
            reading: AtomicUsize::new(0),
            counts: counts.clone(),
        });
        let (stop, stopped) = oneshot::channel();
        let reading = Arc::downgrade(&desk);
        let counted = counts.clone();
        let predictor = thread::spawn(move || {
            let others = || reading.upgrade().is_some_and(|desk| desk.reading.load(Ordering::Relaxed) > 0);
            batch::predict(model, limits, &jobs, others, &counted);
        });
        let http = thread::spawn(move || runtime.block_on(serve(desk, listener, stopped)));
        Ok(Server { address, counts, stop: Some(stop), threads: vec![http, predictor] })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has done.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Waits for ever.
    pub fn wait(mut self) {
        for thread in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whoever listens for this is gone only when it has ended by itself.
        let _ = self.stop.take().map(|stop| stop.send(()));
        for thread in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }
}

/// Accepts connections until it is told to stop; then those that are under way are ended.
async fn serve(desk: Arc<Desk>, listener: TcpListener, mut stopped: oneshot::Receiver<()>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let connections = Arc::new(Semaphore::new(desk.limits.connections));
    let ending = GracefulShutdown::new();
    loop {
        let accepted = async {
            let slot = connections.clone().acquire_owned().await;
            (listener.accept().await, slot)
        };
        let (stream, slot) = tokio::select! {
            (accepted, slot) = accepted => match accepted {
                Ok((stream, _)) => (stream, slot),
                Err(_) => {
                    // Out of file descriptors, for example: some will be given back.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            },
            _ = &mut stopped => break,
        };
        let _ = stream.set_nodelay(true);
        let own = desk.clone();
        let service = service_fn(move |request| {
            let desk = own.clone();
            async move { Ok::<_, Infallible>(desk.respond(request).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(desk.limits.patience);
        let connection = ending.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // A client that is gone needs no answer.
            let _ = connection.await;
            drop(slot);
        });
    }
    let _ = tokio::time::timeout(desk.limits.patience, ending.shutdown()).await;
}

/// What takes requests.
struct Desk {
    /// What rows must be like.
    interface: Interface,
    limits: Limits,
    queue: Sender<Job>,
    under_way: Semaphore,
    /// How many requests are being read.
    reading: AtomicUsize,
    counts: Arc<Counts>,
}

/// A request that is being read.
struct Reading<'d>(&'d AtomicUsize);

impl<'d> Reading<'d> {
    fn new(count: &'d AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Reading(count)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A status with what is wrong.
type Refusal = (StatusCode, String);

impl Desk {
    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let text = |text: String| response(StatusCode::OK, "text/plain", text);
        let refused = |code, error: &str| response(code, "application/json", error_json(error));
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/predict") => match self.predict(request.into_body()).await {
                Ok(json) => response(StatusCode::OK, "application/json", json),
                Err((code, error)) => refused(code, &error),
            },
            (&Method::GET, "/health") => text("ok".to_owned()),
            (&Method::GET, "/model") => text(about(&self.interface)),
            (_, "/predict" | "/health" | "/model") => {
                refused(StatusCode::METHOD_NOT_ALLOWED, "POST /predict, GET /health or /model")
            }
            _ => refused(StatusCode::NOT_FOUND, "there are /predict, /health and /model"),
        }
    }

    /// The answer in JSON.
    async fn predict(&self, body: Incoming) -> Result<String, Refusal> {
        let Ok(_place) = self.under_way.try_acquire() else {
            self.counts.turned_away.fetch_add(1, Ordering::Relaxed);
            return Err((StatusCode::SERVICE_UNAVAILABLE, "too many requests are under way; come again".to_owned()));
        };
        let table = {
            let _reading = Reading::new(&self.reading);
            self.rows(body).await?
        };
        let (send, answer) = oneshot::channel();
        let gone = || (StatusCode::INTERNAL_SERVER_ERROR, "nobody computes any more".to_owned());
        self.queue.send(Job { table, answer: send }).map_err(|_| gone())?;
        match answer.await {
            Ok(Ok(outputs)) => {
                let json = self.interface.to_json(&outputs);
                let json = json.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
                self.counts.answered.fetch_add(1, Ordering::Relaxed);
                Ok(json)
            }
            // Values that the model does not take, such as the number of a word that there is not.
            Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, error)),
            Err(_) => Err(gone()),
        }
    }

    /// The rows of a request.
    async fn rows(&self, body: Incoming) -> Result<Table, Refusal> {
        let (most, patience) = (self.limits.request_bytes, self.limits.patience);
        let too_large =
            || (StatusCode::PAYLOAD_TOO_LARGE, format!("a request requires at most {most} bytes, got more"));
        if body.size_hint().lower() > most as u64 {
            return Err(too_large());
        }
        let bytes = match tokio::time::timeout(patience, Limited::new(body, most).collect()).await {
            Ok(Ok(bytes)) => bytes.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
            Ok(Err(_)) => return Err((StatusCode::BAD_REQUEST, "the request ended early".to_owned())),
            Err(_) => {
                let text = format!("a request requires to be sent within {patience:?}, got a part of it");
                return Err((StatusCode::REQUEST_TIMEOUT, text));
            }
        };
        let read = || self.interface.rows_of_json(&bytes);
        let table = if bytes.len() > MUCH { tokio::task::block_in_place(read) } else { read() };
        let table = table.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        let (n, most) = (table.len(), self.limits.request_rows);
        if n == 0 || n > most {
            return Err((StatusCode::BAD_REQUEST, format!("a request requires 1 to {most} rows, got {n}")));
        }
        Ok(table)
    }
}

fn response(code: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    if code == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    response
}

/// What is wrong, in JSON.
fn error_json(text: &str) -> String {
    let mut quoted = String::from("{\"error\":\"");
    for c in text.chars() {
        let _ = match c {
            '"' | '\\' => write!(quoted, "\\{c}"),
            c if c.is_control() => write!(quoted, "\\u{:04x}", u32::from(c)),
            c => write!(quoted, "{c}"),
        };
    }
    quoted + "\"}"
}

/// Fields and labels, a line each.
fn about(interface: &Interface) -> String {
    let fields = interface.fields().iter().map(|f| format!("field {}: {} {:?}\n", f.name, f.dtype, f.shape));
    let labels = interface.labels().iter().map(|label| format!("label {label}\n"));
    fields.chain(labels).collect()
}
