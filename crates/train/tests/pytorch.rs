//! Weights that PyTorch saved give its outputs: the files were written by `pytorch/make.py`.

use std::path::PathBuf;

use cotangent_data::safetensors::{Archive, SafeTensors, Tensors};
use cotangent_exec::{Compiler, Each, HostTensor, Runtime, Seed, Session, Threads};
use cotangent_graph::DType::{F32, I64};
use cotangent_graph::{Graph, Init, Tensor, build};
use cotangent_nn::{BatchNorm, Conv, ConvTransposed, Embedding, Given, LayerNorm, Layers, Padding, Recurrent};
use cotangent_train::checkpoint::pytorch::{Module, translated};
use cotangent_train::checkpoint::{Load, load};
use ndarray::ArrayD;

fn path(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "pytorch", file].iter().collect()
}

fn array(tensors: &Tensors, name: &str) -> ArrayD<f32> {
    tensors[name].array::<f32>().unwrap().to_owned()
}

/// The modules of `make.py`, and where this model has them.
const MODULES: [(&str, Module, &str); 9] = [
    ("embed", Module::Embedding, "letters"),
    ("rnn", Module::Rnn, "plain"),
    ("lstm", Module::Lstm, "lstm"),
    ("gru", Module::Gru, "gru"),
    ("gates", Module::Gru, "both"),
    ("conv", Module::Conv, "conv"),
    ("norm", Module::Norm, "norm"),
    ("up", Module::ConvTransposed, "up"),
    ("head", Module::Linear, "out"),
];

/// States of layers and directions in one tensor, as PyTorch has them.
fn stacked<'a, 'g: 'a>(states: impl Iterator<Item = &'a Tensor<'g>>) -> Tensor<'g> {
    let each: Vec<Tensor<'g>> = states.map(|state| state.reshape([1, 2, 4])).collect();
    each[0].builder().concat(&each, 0)
}

/// One of them.
fn part(all: Tensor<'_>, k: usize) -> Tensor<'_> {
    all.slice(&[k, 0, 0], &[k + 1, 2, 4]).reshape([2, 4])
}

fn model() -> Graph {
    let graph = build(|g| {
        g.set_training(false);
        let x = g.input("letters", I64, [2, 5]).layer("letters", Embedding::new(7, 3));
        g.output("embed", x);
        g.output("rnn", x.layer("plain", Recurrent::rnn(4)));
        let (h, c) = (g.input("h0", F32, [4, 2, 4]), g.input("c0", F32, [4, 2, 4]));
        let starts: Vec<_> = (0..4).flat_map(|k| [part(h, k), part(c, k)]).collect();
        let lstm = Recurrent::lstm(4).layers(2).both_ways();
        let made = lstm.run("lstm", x, &Given::new().states(&starts));
        g.output("lstm", made.outputs);
        g.output("lstm.h", stacked(made.states.iter().step_by(2)));
        g.output("lstm.c", stacked(made.states.iter().skip(1).step_by(2)));
        let made = Recurrent::gru(4).layers(2).run("gru", x, &Given::new());
        g.output("gru", made.outputs);
        g.output("gru.h", stacked(made.states.iter()));
        g.output("gates", x.layer("both", Recurrent::gru(4).both_ways()));

        let maps = g.input("maps", F32, [2, 4, 7, 9]).transpose([0, 2, 3, 1]);
        let one = Padding::Sides(vec![(1, 1); 2]);
        let conv = Conv::new(6, &[3, 2]).stride(&[2, 2]).padding(one.clone()).groups(2);
        let up = ConvTransposed::new(2, &[3, 3]).stride(&[2, 2]).padding(one).output_padding(&[1, 1]);
        let y = maps.layer("conv", conv).layer("norm", BatchNorm::new()).layer("up", up).transpose([0, 3, 1, 2]);
        g.output("up", y);
        let last = y.flatten().dense("out", 5).layer("last", LayerNorm::new());
        g.output("last", last * g.param("scale", F32, [5], Init::ONES));
    });
    graph.unwrap_or_else(|diags| panic!("{diags}"))
}

fn session() -> Session {
    let runtime = Runtime::new(Threads::Exactly(1));
    Session::new(&runtime, Compiler::new().compile(&model()).unwrap(), Seed(0)).unwrap()
}

#[test]
fn outputs_are_those_of_pytorch() {
    let expected = SafeTensors::read(path("expected.safetensors")).unwrap().tensors;
    let modules: Vec<_> = MODULES.into_iter().chain([("last", Module::Norm, "last")]).collect();
    let full = Archive::open(path("full.safetensors")).unwrap();
    let half = Archive::open_shards(path("half.safetensors.index.json")).unwrap();
    for (kind, file) in [("full", full), ("half", half)] {
        let mut session = session();
        // All that PyTorch saved has its place, and all that the model has came from there.
        let weights = translated(file.tensors, &modules).unwrap();
        load(&weights, Load::Strict, session.store_mut()).unwrap();
        let [maps, h0, c0] = ["maps", "h0", "c0"].map(|name| array(&expected, &format!("in.{name}")));
        let inputs = [
            ("letters", HostTensor::from(&expected["in.letters"])),
            ("maps", HostTensor::from(&maps)),
            ("h0", HostTensor::from(&h0)),
            ("c0", HostTensor::from(&c0)),
        ];
        let step = session.step(Each(inputs)).unwrap();
        let start = format!("{kind}.");
        let names: Vec<&str> = expected.keys().filter_map(|name| name.strip_prefix(&start)).collect();
        assert_eq!(names.len(), 10);
        for name in names {
            let (got, wanted) = (step.view::<f32>(name).unwrap(), array(&expected, &format!("{start}{name}")));
            assert_eq!(got.shape(), wanted.shape(), "{name}");
            let far = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
            assert!(far < 1e-5, "{kind}.{name}: {far}");
        }
    }
}

#[test]
fn what_is_no_such_module_is_an_error() {
    let weights = Archive::open(path("full.safetensors")).unwrap().tensors;
    let no = |modules: &[(&str, Module, &str)]| translated(weights.clone(), modules).unwrap_err().to_string();
    let text = no(&[("hed", Module::Linear, "out")]);
    assert!(text.contains("`hed`: required tensors of a Linear, got none, the nearest is `head`"), "{text}");
    let text = no(&[("gru", Module::Lstm, "gru")]);
    assert!(text.contains("4 times as many rows as the state has numbers") && text.contains("[12,3]"), "{text}");
    assert!(no(&[("conv", Module::Linear, "conv")]).contains("rank 2 of a Linear, got shape [6,2,3,2]"));
    assert!(no(&[("head", Module::Conv, "conv")]).contains("rank 3 of a Conv, got shape [5,160]"));
    assert!(
        no(&[("gru", Module::Gru, "a"), ("gates", Module::Gru, "a"), ("embed", Module::Embedding, "a.0")])
            .contains("`a.0.weight` twice")
    );
    assert!(no(&[("rnn", Module::Norm, "a")]).contains("required tensors of a Norm, got none"));
    let without = |names: &[&str], with: &[(&str, &str)]| {
        let mut weights = weights.clone();
        names.iter().for_each(|name| assert!(weights.remove(*name).is_some(), "{name}"));
        let copies: Vec<_> = with.iter().map(|(new, old)| ((*new).to_owned(), weights[*old].clone())).collect();
        weights.extend(copies);
        translated(weights, &[("lstm", Module::Lstm, "lstm")]).unwrap_err().to_string()
    };
    assert!(without(&["lstm.weight_hh_l0"], &[]).contains("weights of inputs and of states for each layer"));
    assert!(without(&["lstm.bias_hh_l1"], &[]).contains("biases of inputs and of states, or none, got one of them"));
    let projected = without(&[], &[("lstm.weight_hr_l0", "head.weight")]);
    assert!(projected.contains("without projections, got `weight_hr_l0` beside 2 layers"), "{projected}");
    assert!(without(&["lstm.bias_ih_l0"], &[("lstm.bias_ih_l0", "head.bias")]).contains("of one type and shape"));
    // What no module claims stays as it is, and loading tells of it.
    let left = load(&translated(weights.clone(), &MODULES).unwrap(), Load::Strict, session().store_mut());
    let text = left.unwrap_err().to_string();
    assert!(text.contains("missing: `last.gain`") && text.contains("not asked for: `last.weight`"), "{text}");
}

#[test]
fn an_index_that_lies_is_an_error() {
    let folder = std::env::temp_dir().join(format!("cotangent-shards-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let index = folder.join("half.safetensors.index.json");
    for part in 1..=2 {
        let file = format!("half-0000{part}-of-00002.safetensors");
        std::fs::copy(path(&file), folder.join(&file)).unwrap();
    }
    let text = std::fs::read_to_string(path("half.safetensors.index.json")).unwrap();
    let read = |text: &str| {
        std::fs::write(&index, text).unwrap();
        Archive::open_shards(&index).map_err(|error| error.to_string())
    };
    let full = Archive::open(path("full.safetensors")).unwrap();
    assert!(read(&text).unwrap().tensors.keys().eq(full.tensors.keys()));
    for (text, says) in [
        (text.replace("embed.weight", "embed.wait"), "\"embed.wait\" in one of the two only"),
        (text.replace("weight_map", "weights"), "a JSON object with `weight_map`"),
        (
            text.replace("\"conv.bias\"", "\"embed.weight\": \"half-00002-of-00002.safetensors\", \"conv.bias\""),
            "tensor \"embed.weight\" in \"half-00002-of-00002.safetensors\" and in \"half-00001-of-00002.safetensors\"",
        ),
        (
            text.replace("embed.weight\": \"half-00001", "embed.weight\": \"half-00002"),
            "\"half-00002-of-00002.safetensors\" as the file has them, got tensor \"embed.weight\" in \"half-00001-of-00002",
        ),
        (text.replace("half-00001", "../half-00001"), "names of files beside it"),
        (text.replace("half-00001", "half-00003"), "half-00003-of-00002.safetensors"),
        (text[..text.len() / 2].to_owned(), "a JSON object with `weight_map`"),
    ] {
        let error = read(&text).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
    // Without an index all files of a folder are taken, as long as no two have the same tensor.
    std::fs::remove_file(&index).unwrap();
    assert!(Archive::open_shards(&folder).unwrap().tensors.keys().eq(full.tensors.keys()));
    std::fs::write(folder.join("model.safetensors.index.json"), &text).unwrap();
    assert!(Archive::open_shards(&folder).unwrap().tensors.keys().eq(full.tensors.keys()));
    std::fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
    std::fs::copy(path("full.safetensors"), folder.join("full.safetensors")).unwrap();
    let error = Archive::open_shards(&folder).unwrap_err().to_string();
    assert!(error.contains("in \"full.safetensors\" and in \"half-00001-of-00002.safetensors\""), "{error}");
    for file in std::fs::read_dir(&folder).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let error = Archive::open_shards(&folder).unwrap_err().to_string();
    assert!(error.contains("got nothing there; name an index, or a folder that has one"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
}
