//! Loads a server on this machine and tells requests a second and latencies:
//! `cargo run --release -p inference-server --bin load -- MODEL REQUEST.json [CLIENTS [REQUESTS [THREADS]]]`.
//!
//! Every client sends the request, waits for the answer, and sends it again. Beside it stands what `Model::predict_named` takes in
//! this process for the same rows, without any server.

use std::error::Error;
use std::time::{Duration, Instant};

use cotangent::prelude::{Runtime, Threads};
use cotangent::train::Model;
use inference_server::client::Client;
use inference_server::{Limits, Server};

/// The time that so many percent of them take at most.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, request, ..] = &args[..] else {
        return Err("usage: load MODEL REQUEST.json [CLIENTS [REQUESTS [THREADS]]]".into());
    };
    let number = |at: usize, default: usize| args.get(at).map_or(Ok(default), |text| text.parse());
    let (n_clients, n_requests, n_threads) = (number(2, 8)?, number(3, 500)?, number(4, 1)?);
    let body = std::fs::read_to_string(request)?;
    let runtime = Runtime::new(Threads::Exactly(n_threads));
    let mut model = Model::load(path, &runtime)?;
    let rows = model.interface().rows_of_json(body.as_bytes())?;
    let mut alone: Vec<Duration> = Vec::new();
    for turn in 0..n_requests + 50 {
        let start = Instant::now();
        model.predict_named(&rows)?;
        if turn >= 50 {
            alone.push(start.elapsed());
        }
    }
    alone.sort_unstable();
    println!("without a server: p50 {:.0} µs, p99 {:.0} µs", percentile(&alone, 50), percentile(&alone, 99));

    let server = Server::start(model, "127.0.0.1:0", Limits::default())?;
    let address = server.address();
    let start = Instant::now();
    let clients: Vec<_> = (0..n_clients)
        .map(|_| {
            let body = body.clone();
            std::thread::spawn(move || -> std::io::Result<Vec<Duration>> {
                let mut client = Client::connect(address)?;
                let mut times = Vec::new();
                while times.len() < n_requests {
                    let start = Instant::now();
                    let answer = client.send("POST", "/predict", &body)?;
                    match answer.code {
                        200 => times.push(start.elapsed()),
                        503 => std::thread::sleep(Duration::from_millis(1)),
                        _ => return Err(std::io::Error::other(answer.body)),
                    }
                }
                Ok(times)
            })
        })
        .collect();
    let mut times: Vec<Duration> = Vec::new();
    for client in clients {
        times.extend(client.join().map_err(|_| "a client panicked")??);
    }
    let seconds = start.elapsed().as_secs_f64();
    times.sort_unstable();
    let counts = server.counts();
    let count = |of: &std::sync::atomic::AtomicU64| of.load(std::sync::atomic::Ordering::Relaxed);
    println!(
        "{n_clients} clients, {} requests: {:.0} requests/s, p50 {:.0} µs, p99 {:.0} µs; {:.1} requests a batch, {} told to come again",
        times.len(),
        times.len() as f64 / seconds,
        percentile(&times, 50),
        percentile(&times, 99),
        count(&counts.answered) as f64 / count(&counts.batches).max(1) as f64,
        count(&counts.turned_away)
    );
    Ok(())
}
