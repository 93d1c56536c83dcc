use super::*;

fn leaf(name: &str, unpacked: u64, kind: Kind) -> Node {
    Node::leaf(name.to_owned(), Weight { files: 1, unpacked, compressed: unpacked / 3 }, kind)
}

fn report() -> Report {
    let mut distribution = Node::group("evil</script> 1".to_owned());
    distribution.children =
        vec![leaf("a.py", 2000, Kind::Python), leaf("<b>.so", 9000, Kind::Native)];
    let mut layer = Node::group("app".to_owned());
    layer.children = vec![distribution];
    let mut tree = Node::group("example.org/app:1".to_owned());
    tree.children = vec![leaf("base layer 1", 50_000, Kind::Base), layer];
    tree.finish();
    let weight = Weight { files: 2, unpacked: 11_000, compressed: 3666 };
    Report {
        cell: "1/python3.13/alpine3.24".to_owned(),
        reference: "example.org/app:1".to_owned(),
        platform: "linux/amd64".to_owned(),
        image: weight.plus(Weight { files: 1, unpacked: 50_000, compressed: 16_666 }),
        added: weight,
        layers: Vec::new(),
        distributions: vec![Share {
            name: "evil</script>".to_owned(),
            version: Some("1".to_owned()),
            layer: "app".to_owned(),
            weight,
            pruned: 5,
        }],
        pruned: vec![PrunedRule {
            paths: vec!["**/*.c".to_owned()],
            reason: "sources & headers".to_owned(),
            files: 1,
            bytes: 5,
            from: BTreeMap::from([("evil".to_owned(), 5)]),
        }],
        tree,
    }
}

#[test]
fn a_page_is_whole_and_holds_no_foreign_markup() {
    let page = page(&report(), |bytes| format!("{bytes} B"));
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    for placeholder in ["@title@", "@data@", "@sums@", "@pruned@"] {
        assert!(!page.contains(placeholder), "{placeholder}");
    }
    // Nothing is loaded from elsewhere.
    for word in ["src=", "href=", "url(", "@import", "http:", "https:"] {
        assert!(!page.contains(word), "{word}");
    }
    // Names of files and projects stay text.
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(page.contains("evil&lt;/script&gt;") && page.contains("sources &amp; headers"));
    let json = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    let tree: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(tree["u"], 61_000);
    assert_eq!(tree["d"][1]["d"][0]["d"][0]["n"], "<b>.so");
}

#[test]
fn names_of_distributions_are_compared_as_the_index_does() {
    assert_eq!(normalised("Zope.Interface"), normalised("zope_interface"));
    assert_ne!(normalised("flask"), normalised("flask-cors"));
}
