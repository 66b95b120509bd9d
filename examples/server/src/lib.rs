//! A server that answers with a model's predictions.
//!
//! | request | answer |
//! |---|---|
//! | `POST /predict` with rows in JSON | labels and outputs in JSON |
//! | `GET /health` | `ok` |
//! | `GET /model` | the fields and labels of the model |
//!
//! Why it exists: many clients send a row each, and a net computes 32 rows in little more time than one. So rows of requests that
//! come within a short time are computed together. A row's prediction has the same bits whatever rows stand beside it
//! ([`Model`]), so nobody can tell.
//!
//! Some threads read requests and put their rows into a queue of limited length; one thread takes what is there, waits a moment for
//! more, and computes; some threads write answers. A request that finds the queue full is told to come again (503) at once, so the
//! time that an accepted one waits is bounded. Wrong requests are told what is wrong (400, 404, 405, 413).
//!
//! It is an example: it has no encryption, no accounts, and a client that sends slowly holds a reading thread. Put a proxy in front.
#![forbid(unsafe_code)]

pub mod client;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cotangent::data::{Examples, Field, Table};
use cotangent::graph::{Shape, TensorData};
use cotangent::train::Model;
use cotangent::train::model::Interface;
use tiny_http::{Header, Method, Request, Response};

/// What a server takes on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows that are computed together, at most (one request may have more).
    pub batch_rows: usize,
    /// How long rows wait for others to be computed with.
    pub batch_wait: Duration,
    /// Rows of a request, at most.
    pub request_rows: usize,
    /// Bytes of a request, at most.
    pub request_bytes: usize,
    /// Requests that wait, at most; more are told to come again.
    pub queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            batch_rows: 128,
            batch_wait: Duration::from_micros(200),
            request_rows: 1024,
            request_bytes: 16 << 20,
            queue: 256,
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

/// A request whose rows wait.
struct Job {
    request: Request,
    table: Table,
}

/// A request with what was computed for it.
type Answer = (Request, Result<BTreeMap<String, TensorData>, String>);

/// A server that is running. It ends when it is dropped, after what it has accepted.
pub struct Server {
    address: SocketAddr,
    counts: Arc<Counts>,
    http: Arc<tiny_http::Server>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({}, {:?})", self.address, self.counts)
    }
}

/// What reads requests.
struct Reader {
    http: Arc<tiny_http::Server>,
    /// What rows must be like.
    interface: Arc<Interface>,
    limits: Limits,
    queue: SyncSender<Job>,
    counts: Arc<Counts>,
}

/// Threads that read requests. They do little beside.
const READERS: usize = 2;

impl Server {
    /// Serves a model at an address; port 0 is any that is free.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn start(model: Model, address: impl ToSocketAddrs, limits: Limits) -> io::Result<Self> {
        let http = Arc::new(tiny_http::Server::http(address).map_err(io::Error::other)?);
        let address = http.server_addr().to_ip().ok_or_else(|| io::Error::other("no address of TCP"))?;
        let counts = Arc::new(Counts::default());
        let (queue, jobs) = sync_channel(limits.queue.max(1));
        let (answers, done) = sync_channel(limits.queue.max(1));
        let interface = Arc::new(model.interface().clone());
        let mut threads = Vec::new();
        for _ in 0..READERS {
            let (http, interface) = (http.clone(), interface.clone());
            let reader = Reader { http, interface, limits, queue: queue.clone(), counts: counts.clone() };
            threads.push(thread::spawn(move || reader.run()));
        }
        let counted = counts.clone();
        threads.push(thread::spawn(move || predict(model, limits, &jobs, &answers, &counted)));
        let counted = counts.clone();
        threads.push(thread::spawn(move || write(&interface, &done, &counted)));
        Ok(Server { address, counts, http, threads })
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
        for _ in 0..READERS {
            self.http.unblock();
        }
        for thread in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }
}

fn header(name: &str, value: &str) -> Option<Header> {
    Header::from_bytes(name, value).ok()
}

/// Answers with text. A client that is gone needs no answer.
fn respond(request: Request, code: u16, kind: &str, text: String) {
    let mut response = Response::from_string(text).with_status_code(code);
    let headers = [header("Content-Type", kind), (code == 503).then(|| header("Retry-After", "1")).flatten()];
    headers.into_iter().flatten().for_each(|header| response.add_header(header));
    let _ = request.respond(response);
}

/// Answers with what is wrong.
fn refuse(request: Request, code: u16, text: &str) {
    let mut quoted = String::from("{\"error\":\"");
    for c in text.chars() {
        let _ = match c {
            '"' | '\\' => write!(quoted, "\\{c}"),
            c if c.is_control() => write!(quoted, "\\u{:04x}", u32::from(c)),
            c => write!(quoted, "{c}"),
        };
    }
    respond(request, code, "application/json", quoted + "\"}");
}

impl Reader {
    fn run(self) {
        // An error is the end: the server was asked to stop.
        while let Ok(request) = self.http.recv() {
            self.take(request);
        }
    }

    fn take(&self, mut request: Request) {
        match (request.method(), request.url()) {
            (Method::Post, "/predict") => {}
            (Method::Get, "/health") => return respond(request, 200, "text/plain", "ok".to_owned()),
            (Method::Get, "/model") => return respond(request, 200, "text/plain", about(&self.interface)),
            (_, "/predict" | "/health" | "/model") => {
                return refuse(request, 405, "POST /predict, GET /health or /model");
            }
            _ => return refuse(request, 404, "there are /predict, /health and /model"),
        }
        let most = self.limits.request_bytes;
        let too_large = format!("a request requires at most {most} bytes, got more");
        if request.body_length().is_some_and(|length| length > most) {
            return refuse(request, 413, &too_large);
        }
        let mut body = Vec::new();
        if request.as_reader().take(most as u64 + 1).read_to_end(&mut body).is_err() {
            return refuse(request, 400, "the request ended early");
        }
        if body.len() > most {
            return refuse(request, 413, &too_large);
        }
        let table = match self.interface.rows_of_json(&body) {
            Ok(table) => table,
            Err(error) => return refuse(request, 400, &error.to_string()),
        };
        let (n, most) = (table.len(), self.limits.request_rows);
        if n == 0 || n > most {
            return refuse(request, 400, &format!("a request requires 1 to {most} rows, got {n}"));
        }
        match self.queue.try_send(Job { request, table }) {
            Ok(()) => {}
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                self.counts.turned_away.fetch_add(1, Ordering::Relaxed);
                refuse(job.request, 503, "too many requests wait; come again");
            }
        }
    }
}

/// Fields and labels, a line each.
fn about(interface: &Interface) -> String {
    let fields = interface.fields().iter().map(|f| format!("field {}: {} {:?}\n", f.name, f.dtype, f.shape));
    let labels = interface.labels().iter().map(|label| format!("label {label}\n"));
    fields.chain(labels).collect()
}

/// The rows of several requests, one behind the other.
struct Joined<'a>(Vec<&'a Table>);

impl Joined<'_> {
    /// The request of a row, and its place there.
    fn at(&self, row: usize) -> (usize, usize) {
        let mut row = row;
        for (at, table) in self.0.iter().enumerate() {
            if row < table.len() {
                return (at, row);
            }
            row -= table.len();
        }
        (0, 0)
    }
}

impl Examples for Joined<'_> {
    fn len(&self) -> usize {
        self.0.iter().map(|table| table.len()).sum()
    }

    fn fields(&self) -> Vec<Field> {
        self.0.first().map(|table| table.fields()).unwrap_or_default()
    }

    fn places(&self, _: cotangent::data::Order, _: u64, _: u64) -> Result<Vec<usize>, cotangent::data::DataError> {
        Ok((0..self.len()).collect())
    }

    fn gather(
        &self,
        epoch: u64,
        places: &[usize],
        batch: &mut Vec<TensorData>,
    ) -> Result<(), cotangent::data::DataError> {
        let mut parts: Vec<Vec<TensorData>> = Vec::new();
        let mut next = 0;
        while next < places.len() {
            let (job, _) = self.at(places[next]);
            let run: Vec<usize> =
                places[next..].iter().map(|&row| self.at(row)).take_while(|at| at.0 == job).map(|at| at.1).collect();
            next += run.len();
            let mut part = Vec::new();
            self.0[job].gather(epoch, &run, &mut part)?;
            parts.push(part);
        }
        let n_fields = parts.first().map_or(0, Vec::len);
        *batch = (0..n_fields).map(|field| joined(parts.iter().map(|part| &part[field]), places.len())).collect();
        Ok(())
    }
}

/// Tensors of one type, one behind the other.
fn joined<'a>(parts: impl Iterator<Item = &'a TensorData>, n_rows: usize) -> TensorData {
    let (mut bits, mut of) = (Vec::new(), None);
    for part in parts {
        bits.extend(part.bits());
        of = Some((part.dtype(), part.shape()));
    }
    let (dtype, shape) = of.unwrap_or((cotangent::prelude::DType::F32, Shape::new(&[0])));
    let shape: Shape = [n_rows].into_iter().chain(shape.iter().skip(1).copied()).collect();
    TensorData::from_bits(dtype, &shape, &bits)
}

/// Takes what waits, together, until no reader is left.
fn predict(mut model: Model, limits: Limits, jobs: &Receiver<Job>, answers: &SyncSender<Answer>, counts: &Counts) {
    let mut left_over: Option<Job> = None;
    loop {
        let Some(first) = left_over.take().or_else(|| jobs.recv().ok()) else { return };
        let mut n_rows = first.table.len();
        let mut batch = vec![first];
        let until = Instant::now() + limits.batch_wait;
        while n_rows < limits.batch_rows {
            match jobs.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(job) if n_rows + job.table.len() <= limits.batch_rows => {
                    n_rows += job.table.len();
                    batch.push(job);
                }
                Ok(job) => {
                    left_over = Some(job);
                    break;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        counts.batches.fetch_add(1, Ordering::Relaxed);
        let outputs = model.predict_named(&Joined(batch.iter().map(|job| &job.table).collect()));
        let mut start = 0;
        let n_jobs = batch.len();
        for job in batch {
            let rows = start..start + job.table.len();
            start = rows.end;
            let own = match &outputs {
                Ok(outputs) => Ok(outputs.iter().map(|(name, all)| (name.clone(), part(all, rows.clone()))).collect()),
                Err(error) if n_jobs == 1 => Err(error.to_string()),
                // A row of somebody else's may be wrong: each by itself.
                Err(_) => model.predict_named(&job.table).map_err(|error| error.to_string()),
            };
            if answers.send((job.request, own)).is_err() {
                return;
            }
        }
    }
}

/// Some rows of a tensor.
fn part(all: &TensorData, rows: std::ops::Range<usize>) -> TensorData {
    let shape = all.shape();
    let length = shape.n_elements() / shape[0].max(1);
    let bits = all.bits();
    let own: Shape = [rows.len()].into_iter().chain(shape.iter().skip(1).copied()).collect();
    TensorData::from_bits(all.dtype(), &own, &bits[rows.start * length..rows.end * length])
}

/// Writes answers, until nobody computes any more.
fn write(interface: &Interface, answers: &Receiver<Answer>, counts: &Counts) {
    for (request, outputs) in answers {
        let outputs = match outputs {
            Ok(outputs) => outputs,
            // Values that the model does not take, such as the number of a word that there is not.
            Err(error) => {
                refuse(request, 400, &error);
                continue;
            }
        };
        match interface.to_json(&outputs) {
            Ok(json) => {
                counts.answered.fetch_add(1, Ordering::Relaxed);
                respond(request, 200, "application/json", json);
            }
            Err(error) => refuse(request, 500, &error.to_string()),
        }
    }
}
