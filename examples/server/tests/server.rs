//! Many clients at once get the bits that `predict` gives; what is wrong or too much is answered as such.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

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

/// A connection that has sent so much of a request of `length` bytes.
fn begun(server: &Server, length: usize, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    stream
}

/// All that a connection says until it ends or has said so much.
fn said(stream: &mut TcpStream, until: &str) -> String {
    let (mut all, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        let n = stream.read(&mut piece).unwrap_or(0);
        all.extend_from_slice(&piece[..n]);
        let text = String::from_utf8_lossy(&all).into_owned();
        if n == 0 || text.contains(until) {
            return text;
        }
    }
}

#[test]
fn what_is_too_much_is_turned_away_and_taken_later() {
    let server = server(&file("full.safetensors"), Limits { requests: 1, ..Limits::default() });
    let body = "{\"x\":[[1,2],[3,4]]}";
    // One request is under way, as its client is slow.
    let mut slow = begun(&server, body.len(), &body[..5]);
    let mut client = Client::connect(server.address()).unwrap();
    let mut answer = client.send("POST", "/predict", body).unwrap();
    // It may not have been taken before this one.
    while answer.code == 200 {
        answer = client.send("POST", "/predict", body).unwrap();
    }
    assert!(answer.code == 503 && answer.headers.contains("retry-after: 1"), "{answer:?}");
    assert_eq!(server.counts().turned_away.load(Ordering::Relaxed), 1);
    assert_eq!(client.send("GET", "/health", "").unwrap().code, 200);
    slow.write_all(&body.as_bytes()[5..]).unwrap();
    assert!(said(&mut slow, "outputs").starts_with("HTTP/1.1 200"));
    drop(slow);
    assert_eq!(client.send("POST", "/predict", body).unwrap().code, 200);
}

#[test]
fn slow_clients_hold_nobody_up_and_are_not_waited_for() {
    let limits = Limits { patience: Duration::from_millis(400), ..Limits::default() };
    let server = server(&file("slow.safetensors"), limits);
    let body = "{\"x\":[[1,2]]}";
    // More than there are threads: heads that do not end, bodies that do not, and some that end early.
    let mut heads: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream.write_all(b"POST /predict HTTP/1.1\r\nHost: local").unwrap();
            stream
        })
        .collect();
    let mut bodies: Vec<TcpStream> = (0..8).map(|_| begun(&server, 100, "{\"x\":")).collect();
    (0..8).for_each(|_| drop(begun(&server, 100, "{\"x\":")));
    let mut client = Client::connect(server.address()).unwrap();
    for _ in 0..20 {
        assert_eq!(client.send("POST", "/predict", body).unwrap().code, 200);
    }
    for stream in &mut bodies {
        let said = said(stream, "a part of it");
        assert!(said.starts_with("HTTP/1.1 408") && said.contains("a part of it"), "{said}");
    }
    for stream in &mut heads {
        let said = said(stream, "never said");
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
    assert_eq!(Client::connect(server.address()).unwrap().send("POST", "/predict", body).unwrap().code, 200);
}

#[test]
fn a_request_that_comes_alone_waits_for_nobody() {
    // Who would wait for others would wait a minute.
    let limits = Limits { batch_wait: Duration::from_secs(60), ..Limits::default() };
    let server = server(&file("alone.safetensors"), limits);
    let mut client = Client::connect(server.address()).unwrap();
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(client.send("POST", "/predict", "{\"x\":[[1,2]]}").unwrap().code, 200);
    }
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(server.counts().batches.load(Ordering::Relaxed), 10);
}

#[test]
fn no_bytes_end_the_server() {
    let server = server(&file("bytes.safetensors"), Limits::default());
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20));
    for bytes in [
        &b"\0\0\0\0"[..],
        b"GET\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        long.as_bytes(),
    ] {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // It may be closed before all is written.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let said = said(&mut stream, "never said");
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
    let mut client = Client::connect(server.address()).unwrap();
    let deep = format!("{{\"x\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, says) in [
        (deep.as_str(), "error"),
        ("{\"x\":[[NaN,1]]}", "error"),
        ("{\"x\":[[1e999,1]]}", "error"),
        ("{\"x\":[[\"1\",1]]}", "got a text"),
        ("{\"x\":[[null,1]]}", "got null"),
        ("{\"x\":[[1,2],[3]]}", "row 1 of `x`"),
        ("{\"y\":[[1,2]]}", "error"),
        ("{}", "error"),
        ("[]", "error"),
        ("", "error"),
        ("\u{feff}{}", "error"),
    ] {
        let answer = client.send("POST", "/predict", body).unwrap();
        let shown = &body[..body.len().min(60)];
        assert!(answer.code == 400 && answer.body.contains(says), "{shown}: {answer:?}");
    }
    assert_eq!(client.send("POST", "/predict", "{\"x\":[[1,2]]}").unwrap().code, 200);
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
