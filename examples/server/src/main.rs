//! Serves a model: `cargo run --release -p inference-server -- MODEL [ADDRESS]`.

use std::error::Error;

use cotangent::prelude::{Runtime, Threads};
use cotangent::train::Model;
use inference_server::{Limits, Server};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), address) = (args.next(), args.next()) else {
        return Err("usage: inference-server MODEL [ADDRESS]".into());
    };
    let model = Model::load(&path, &Runtime::new(Threads::All))?;
    let server = Server::start(model, address.as_deref().unwrap_or("127.0.0.1:8080"), Limits::default())?;
    println!("{path} at http://{}/predict", server.address());
    server.wait();
    Ok(())
}
