//! Small transformers in every layout, with and without what tells their heads.

use std::collections::BTreeMap;

use turbowan_wan_model::Error;
use turbowan_wan_model::checkpoint::{Checkpoint, Dtype, HeadsFrom, Kind, Layout, TensorSource, TensorView, write_safetensors};
use turbowan_wan_model::config::{DitConfig, TensorSpec};
use turbowan_wan_model::dit::DitTraits;
use turbowan_wan_model::error::Misfit;

pub fn small() -> DitConfig {
    DitConfig {
        dim: 192,
        ffn_dim: 256,
        freq_dim: 32,
        text_dim: 24,
        text_len: 512,
        in_dim: 16,
        out_dim: 16,
        heads: 3,
        layers: 2,
        eps: 1e-6,
        clip_dim: None,
    }
}

/// A file of zeros with these tensors and metadata.
pub fn file(specs: &[TensorSpec], metadata: &[(&str, &str)]) -> Vec<u8> {
    let zeros = vec![0; 1 << 20];
    let views: Vec<_> = specs
        .iter()
        .map(|spec| {
            let dtype = if spec.name.ends_with(".int8_weight") { Dtype::I8 } else { Dtype::F32 };
            let bytes = &zeros[..spec.shape.iter().product::<usize>() * dtype.bytes()];
            (spec.name.as_str(), TensorView { dtype, shape: &spec.shape, bytes })
        })
        .collect();
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut out = Vec::new();
    write_safetensors(&mut out, &views, &metadata).unwrap();
    out
}

fn open(specs: &[TensorSpec], metadata: &[(&str, &str)]) -> Checkpoint {
    Checkpoint::from_vec("small.safetensors", file(specs, metadata)).unwrap()
}

fn plain(config: &DitConfig) -> Vec<TensorSpec> {
    config.tensors(DitTraits::default())
}

fn dit(checkpoint: &Checkpoint) -> (DitConfig, DitTraits, HeadsFrom) {
    match checkpoint.kind(None).unwrap() {
        Kind::Dit { config, traits, heads } => (config, traits, heads),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_transformer_is_recognised_with_all_its_sizes() {
    for (quantised, sla, clip_dim, in_dim) in [(false, false, None, 16), (true, true, None, 36), (false, true, Some(40), 36)] {
        let config = DitConfig { clip_dim, in_dim, ..small() };
        let traits = DitTraits { quantised, sla };
        let checkpoint = open(&config.tensors(traits), &[]);
        let from = if sla { HeadsFrom::Projection } else { HeadsFrom::Assumed };
        assert_eq!(dit(&checkpoint), (config.clone(), traits, from));
        assert_eq!(checkpoint.layout(), Some(Layout::Turbo));
        checkpoint.check(&config.tensors(traits), |_| false).unwrap();
        // The list of the plain network serves a quantised file too.
        checkpoint.check(&config.tensors(DitTraits { quantised: false, sla }), |_| false).unwrap();
    }
}

#[test]
fn a_convolution_over_patches_is_presented_as_a_linear_layer() {
    let mut specs = plain(&small());
    specs[0].shape = vec![192, 16, 1, 2, 2];
    let checkpoint = open(&specs, &[]);
    assert_eq!(checkpoint.layout(), Some(Layout::Official));
    assert_eq!(checkpoint.shape("patch_embedding.weight"), Some(&[192, 64][..]));
    assert_eq!(dit(&checkpoint).0, small());
}

#[test]
fn training_prefixes_come_off() {
    for prefix in ["net.", "model.diffusion_model.", "net._orig_mod.", "_orig_mod."] {
        let specs = plain(&small()).into_iter().map(|spec| TensorSpec::new(format!("{prefix}{}", spec.name), &spec.shape));
        let checkpoint = open(&specs.collect::<Vec<_>>(), &[]);
        checkpoint.check(&plain(&small()), |_| false).unwrap();
    }
    let mut specs = plain(&small());
    specs.push(TensorSpec::new("_orig_mod.head.modulation", &[1]));
    let error = Checkpoint::from_vec("two", file(&specs, &[])).unwrap_err().to_string();
    assert!(error.contains("two tensors are \"head.modulation\""), "{error}");
}

#[test]
fn heads_come_from_the_caller_the_metadata_or_a_config_beside_the_file() {
    let stated = [("turbowan.config", r#"{"heads": 1, "eps": 1e-5, "dim": 192, "note": "anything"}"#)];
    let (config, _, from) = dit(&open(&plain(&small()), &stated));
    assert_eq!((config.heads, config.eps, from), (1, 1e-5, HeadsFrom::Config));

    let checkpoint = open(&plain(&small()), &stated);
    match checkpoint.kind(Some(6)).unwrap() {
        Kind::Dit { config, heads: HeadsFrom::Caller, .. } => assert_eq!(config.heads, 6),
        other => panic!("{other:?}"),
    }

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("diffusion_pytorch_model.safetensors"), file(&plain(&small()), &[])).unwrap();
    for (config, heads, from) in [
        (r#"{"num_attention_heads": 6, "attention_head_dim": 32}"#, 6, HeadsFrom::Config),
        (r#"{"num_heads": 1, "dim": 192}"#, 1, HeadsFrom::Config),
        (r#"{"num_heads": 12, "dim": 1536}"#, 3, HeadsFrom::Assumed),
        ("not json", 3, HeadsFrom::Assumed),
    ] {
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let (found, _, found_from) = dit(&Checkpoint::open(folder.path()).unwrap());
        assert_eq!((found.heads, found_from), (heads, from), "{config}");
    }
}

#[test]
fn contradictions_about_heads_are_errors() {
    let checkpoint = open(&plain(&small()), &[]);
    for heads in [0, 5, 192] {
        assert!(matches!(checkpoint.kind(Some(heads)), Err(Error::Setting { what: "heads", .. })), "{heads}");
    }
    let with_projection = open(&small().tensors(DitTraits { quantised: false, sla: true }), &[]);
    let error = with_projection.kind(Some(6)).unwrap_err().to_string();
    assert!(error.contains("proj_l of 64 channels"), "{error}");
    for (stated, expected) in
        [(r#"{"dim": 128}"#, "says dim = 128, its tensors say 192"), (r#"{"heads": "three"}"#, "turbowan.config"), ("[1]", "malformed")]
    {
        let error = open(&plain(&small()), &[("turbowan.config", stated)]).kind(None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_transformer_without_its_sizes_says_what_it_lacks() {
    let specs: Vec<_> = plain(&small()).into_iter().filter(|spec| !spec.name.starts_with("text_embedding.0")).collect();
    let error = open(&specs, &[]).kind(None).unwrap_err().to_string();
    assert!(error.contains("looks like a Wan transformer, but lacks text_embedding.0.weight of 2 axes"), "{error}");
    let absurd = [TensorSpec::new("time_projection.1.weight", &[0]), TensorSpec::new("patch_embedding.weight", &[1 << 40, 0])];
    assert!(open(&absurd, &[]).kind(None).is_err());
}

#[test]
fn every_misfit_is_listed_at_once() {
    let mut specs = plain(&small());
    let missing = specs.remove(7);
    specs[3].shape = vec![7];
    let (misshapen, found) = (specs[3].name.clone(), specs[3].shape.clone());
    specs.push(TensorSpec::new("blocks.0.self_attn.attn_op.local_attn.proj_l.bias", &[64]));
    specs.push(TensorSpec::new("surplus", &[1]));
    let checkpoint = open(&specs, &[]);
    let expected = plain(&small());
    let Err(Error::Misfits { misfits, .. }) = checkpoint.check(&expected, |name| name.contains("proj_l")) else { panic!() };
    let shape = expected.iter().find(|spec| spec.name == misshapen).unwrap().shape.clone();
    assert_eq!(
        misfits,
        [
            Misfit::Shape { name: misshapen, expected: shape, found },
            Misfit::Missing { name: missing.name, expected: missing.shape },
            Misfit::Extra { name: "surplus".into() },
        ]
    );
}

#[test]
fn integers_in_place_of_weights_are_misfits() {
    let shape = [1usize];
    let view = TensorView { dtype: Dtype::I64, shape: &shape, bytes: &[0; 8] };
    let mut out = Vec::new();
    write_safetensors(&mut out, &[("w", view)], &BTreeMap::new()).unwrap();
    let checkpoint = Checkpoint::from_vec("w", out).unwrap();
    let Err(Error::Misfits { misfits, .. }) = checkpoint.check(&[TensorSpec::new("w", &[1])], |_| false) else { panic!() };
    assert_eq!(misfits, [Misfit::Dtype { name: "w".into(), expected: "a floating-point format", found: "i64" }]);
}

#[test]
fn a_written_file_is_the_same_whatever_the_order_and_reads_back() {
    let data = crate::forge::floats(6);
    let (wide, narrow) = ([2usize, 3], [4usize]);
    let a = ("a\"quoted", TensorView { dtype: Dtype::Bf16, shape: &narrow, bytes: &data[..8] });
    let b = ("b", TensorView { dtype: Dtype::F32, shape: &wide, bytes: &data });
    let metadata = BTreeMap::from([("z".to_owned(), "1".to_owned()), ("a".to_owned(), "2\n".to_owned())]);
    let write = |tensors: &[(&str, TensorView<'_>)]| {
        let mut out = Vec::new();
        write_safetensors(&mut out, tensors, &metadata).map(|()| out)
    };
    let bytes = write(&[a, b]).unwrap();
    assert_eq!(bytes, write(&[b, a]).unwrap());
    assert_eq!(safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor("b").unwrap().data(), data);
    let checkpoint = Checkpoint::from_vec("written", bytes).unwrap();
    assert_eq!(checkpoint.metadata(), &metadata);
    assert_eq!(checkpoint.take("a\"quoted").unwrap().bytes, &data[..8]);
    assert!(checkpoint.take("c").unwrap_err().to_string().starts_with("written"));
    assert!(write(&[a, a]).is_err());
    assert!(write(&[("c", TensorView { dtype: Dtype::F32, shape: &wide, bytes: &data[..8] })]).is_err());
    assert!(write(&[("__metadata__", b.1)]).is_err());
    assert!(Checkpoint::from_vec("none", write(&[]).unwrap()).is_ok());
}

#[test]
fn shards_are_one_checkpoint_and_hash_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let specs = plain(&small());
    let mut map = serde_json::Map::new();
    for (number, part) in specs.chunks(specs.len().div_ceil(3)).enumerate() {
        let name = format!("model-0000{number}-of-00003.safetensors");
        std::fs::write(folder.path().join(&name), file(part, &[])).unwrap();
        map.extend(part.iter().map(|spec| (spec.name.clone(), name.clone().into())));
    }
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    let path = folder.path().join("model.safetensors.index.json");
    std::fs::write(&path, index.to_string()).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.files().count(), 3);
    checkpoint.check(&specs, |_| false).unwrap();
    assert_eq!(checkpoint.content_hash(), Checkpoint::open(&path).unwrap().content_hash());
    assert_eq!(checkpoint.content_hash().len(), 64);
}
