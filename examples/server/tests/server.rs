//! Many clients at once get the bits that `predict` gives; what is wrong or too much is answered as such.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use cotangent::data::Table;
use cotangent::data::synthetic::two_moons;
use cotangent::ndarray::Array2;
use cotangent::prelude::*;
use cotangent::train::{CrossEntropy, Export, Model, Named, Options, Trainer, loss};
use inference_server::client::Client;
use inference_server::{Limits, Server};

fn runtime() -> Runtime {
    Runtime::new(Threads::Exactly(1))
}

/// The file of a trained model.
fn file(name: &str) -> std::path::PathBuf {
    let set = two_moons(100, 0.2, 1);
    let net = model(|_, x| x.dense("hidden", 64).tanh().dense("more", 32).relu().dense("out", 2));
    let options = Options { epochs: 2, progress: false, ..Options::default() };
    let mut trainer = Trainer::new(&runtime(), net, CrossEntropy, Adam::new(0.02), options);
    trainer.fit(&set, None).unwrap();
    let model =
        Export::new(net, &set).labels(["upper", "lower"]).model(&runtime(), trainer.weights().unwrap()).unwrap();
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    model.save(&path).unwrap();
    path
}

fn server(path: &std::path::Path, limits: Limits) -> Server {
    let model = Model::load(path, &Runtime::new(Threads::Exactly(2))).unwrap();
    Server::start(model, "127.0.0.1:0", limits).unwrap()
}

/// Some rows as a request.
fn request(set: &Table, rows: std::ops::Range<usize>) -> (String, Table) {
    let part = set.select(&rows.collect::<Vec<_>>()).unwrap();
    let values = part.get("x").unwrap().to_f64();
    let rows: Vec<String> = values.chunks(2).map(|row| format!("[{},{}]", row[0] as f32, row[1] as f32)).collect();
    (format!("{{\"x\":[{}]}}", rows.join(",")), part)
}

#[test]
fn answers_are_the_bits_of_predict_under_load() {
    let path = file("load.safetensors");
    let limits = Limits { batch_rows: 16, batch_wait: Duration::from_millis(2), ..Limits::default() };
    let server = server(&path, limits);
    let set = Table::of(&two_moons(200, 0.3, 5)).unwrap();
    let mut model = Model::load(&path, &runtime()).unwrap();
    // Requests of one to five rows, each with the answer that it must have, text for text.
    let expected: Vec<(String, String)> = (0..80)
        .map(|k| {
            let (text, part) = request(&set, k..k + 1 + k % 5);
            let outputs = model.predict_named(&part).unwrap();
            (text, model.interface().to_json(&outputs).unwrap())
        })
        .collect();
    let address = server.address();
    thread::scope(|scope| {
        for client in 0..8 {
            let expected = &expected;
            scope.spawn(move || {
                let mut connection = Client::connect(address).unwrap();
                for k in 0..expected.len() {
                    let (request, answer) = &expected[(k * 7 + client * 11) % expected.len()];
                    let got = connection.send("POST", "/predict", request).unwrap();
                    assert_eq!((got.code, &got.body), (200, answer));
                }
            });
        }
    });
    let counts = server.counts();
    let (answered, batches) = (counts.answered.load(Ordering::Relaxed), counts.batches.load(Ordering::Relaxed));
    assert_eq!(answered, 8 * 80);
    assert!(batches < answered, "{batches} batches of {answered} requests: none were computed together");
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let limits = Limits { request_rows: 3, request_bytes: 200, ..Limits::default() };
    let server = server(&file("wrong.safetensors"), limits);
    let mut client = Client::connect(server.address()).unwrap();
    let many = format!("{{\"x\":[{}]}}", ["[1,2]"; 4].join(","));
    let large = format!("{{\"x\":[{}]}}", ["[1,2]"; 100].join(","));
    for (method, path, body, code, says) in [
        ("GET", "/health", "", 200, "ok"),
        ("GET", "/model", "", 200, "field x: f32 [2]\nlabel upper"),
        ("POST", "/predict", "{\"x\":[[1,2]]}", 200, "\"labels\":["),
        ("POST", "/predict", "{\"x\":[[1]]}", 400, "row 0 of `x`: required 2 numbers"),
        ("POST", "/predict", "{\"x\":[]}", 400, "1 to 3 rows, got 0"),
        ("POST", "/predict", "no json", 400, "a JSON object with [\\\"x\\\"]"),
        ("POST", "/predict", &many, 400, "1 to 3 rows, got 4"),
        ("POST", "/predict", &large, 413, "at most 200 bytes"),
        ("GET", "/health", "", 200, "ok"),
        ("GET", "/predict", "", 405, "POST /predict"),
        ("GET", "/elsewhere", "", 404, "there are"),
    ] {
        let answer = client.send(method, path, body).unwrap();
        assert_eq!(answer.code, code, "{method} {path} {body}: {answer:?}");
        assert!(answer.body.contains(says), "{says}: {answer:?}");
        // What was too large is not read, so that connection is over.
        if code == 413 {
            client = Client::connect(server.address()).unwrap();
        }
    }
}

#[test]
fn a_full_queue_turns_away_and_recovers() {
    // One request may wait, and the one under way waits a second for others.
    let limits = Limits { queue: 1, batch_wait: Duration::from_secs(1), batch_rows: 2, ..Limits::default() };
    let server = server(&file("full.safetensors"), limits);
    let address = server.address();
    // Two rows do not go together with another two: the first are computed, the next wait, others find the queue full.
    let codes: Vec<(u16, bool)> = thread::scope(|scope| {
        let clients: Vec<_> = (0..24)
            .map(|k| {
                scope.spawn(move || {
                    let mut client = Client::connect(address).unwrap();
                    let rows = if k % 2 == 0 { "{\"x\":[[1,2]]}" } else { "{\"x\":[[1,2],[3,4]]}" };
                    let answer = client.send("POST", "/predict", rows).unwrap();
                    let retry = answer.headers.contains("retry-after: 1");
                    (answer.code, retry)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(codes.iter().all(|(code, retry)| matches!((code, retry), (200, false) | (503, true))), "{codes:?}");
    assert!(codes.iter().any(|(code, _)| *code == 503) && codes.iter().any(|(code, _)| *code == 200), "{codes:?}");
    let answer = Client::connect(address).unwrap().send("POST", "/predict", "{\"x\":[[1,2],[3,4]]}").unwrap();
    assert_eq!(answer.code, 200);
}

#[test]
fn a_wrong_row_is_nobody_elses() {
    let words = Array2::from_shape_fn((40, 2), |(i, j)| ((i + j) % 5) as i64);
    let y = Array2::from_shape_fn((40, 1), |(i, _)| i as f32 / 40.0);
    let set = Table::new().with("words", words).unwrap().with("y", y).unwrap();
    fn net<'g>(g: &'g GraphBuilder, batch: &Named<'g>) -> Named<'g> {
        Named::outputs(g, [("y", batch.get("words").embedding("words", 5, 3).flatten().dense("y", 1))])
    }
    let objective = loss(|outputs, batch| outputs.get("y").mse(batch.get("y")));
    let options = Options { epochs: 1, progress: false, ..Options::default() };
    let mut trainer = Trainer::named(&runtime(), net, objective, Adam::new(0.02), options);
    trainer.fit(&set, None).unwrap();
    let model = Export::named(net, &set).model(&runtime(), trainer.weights().unwrap()).unwrap();
    let limits = Limits { batch_wait: Duration::from_millis(50), ..Limits::default() };
    let server = Server::start(model, "127.0.0.1:0", limits).unwrap();
    let address = server.address();
    thread::scope(|scope| {
        for client in 0..8 {
            scope.spawn(move || {
                let mut connection = Client::connect(address).unwrap();
                let word = if client % 2 == 0 { 1 } else { 9 };
                for _ in 0..5 {
                    let got = connection.send("POST", "/predict", &format!("{{\"words\":[[0,{word}]]}}")).unwrap();
                    match client % 2 {
                        0 => assert_eq!(got.code, 200, "{got:?}"),
                        _ => assert!(got.code == 400 && got.body.contains("0..5, got 9"), "{got:?}"),
                    }
                }
            });
        }
    });
}
