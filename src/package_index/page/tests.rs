//! Pages as servers write them.

use super::*;

const JSON: &str = "application/vnd.pypi.simple.v1+json";
const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn page(name: &str, content_type: &str, body: &str) -> Result<Vec<String>, Error> {
    let url = Url::parse("https://index.example/simple/foo/").unwrap();
    let project = parse(&name.parse().unwrap(), &url, content_type, body.as_bytes())?;
    let mut lines = Vec::new();
    for (version, files) in project.versions {
        for file in files {
            let Location::Remote(address) = &file.location else {
                panic!("remote");
            };
            let url = address.url(&file.file_name).unwrap();
            lines.push(format!(
                "{version} {} {} {url} size={:?} sha={} py={} up={} yanked={:?} meta={:?}",
                file.file_name,
                matches!(file.kind, FileKind::Sdist),
                file.size,
                file.sha256.is_some(),
                file.requires_python
                    .map_or_else(|| "-".into(), |specifiers| specifiers.to_string()),
                file.upload_time.map_or_else(|| "-".into(), |time| time.to_string()),
                file.yanked,
                file.core_metadata.map(|digest| digest.is_some()),
            ));
        }
    }
    Ok(lines)
}

#[test]
fn json_pages() {
    let body = format!(
        r#"{{"meta": {{"api-version": "1.4", "_last-serial": 5}}, "name": "foo", "versions": ["1.0"], "files": [
          {{"filename": "foo-1.0.tar.gz", "url": "../../f/foo-1.0.tar.gz", "hashes": {{"sha256": "{HEX}"}},
            "size": 12, "upload-time": "2019-03-13T10:11:12.345678Z", "yanked": "broken", "provenance": null}},
          {{"filename": "foo-1.0-py3-none-any.whl", "url": "https://files.example/foo-1.0-py3-none-any.whl",
            "hashes": {{"md5": "x"}}, "requires-python": ">=3.6,", "yanked": false, "core-metadata": {{"sha256": "{HEX}"}}}},
          {{"filename": "foo-1.1-py3-none-any.whl", "url": "foo-1.1-py3-none-any.whl", "hashes": {{}},
            "yanked": true, "core-metadata": true, "dist-info-metadata": false}},
          {{"filename": "foo-1.2-py3-none-any.whl", "url": "a", "hashes": {{}}, "requires-python": "rubbish"}},
          {{"filename": "foo-1.3-py3-none-any.whl", "url": "file:///etc/passwd", "hashes": {{}}}},
          {{"filename": "foo-1.0.exe", "url": "a", "hashes": {{}}}},
          {{"filename": "bar-1.0.tar.gz", "url": "a", "hashes": {{}}}}
        ]}}"#
    );
    let expected = [
        "1.0 foo-1.0-py3-none-any.whl false https://files.example/foo-1.0-py3-none-any.whl size=None sha=false py=>=3.6 up=- yanked=None meta=Some(true)",
        "1.0 foo-1.0.tar.gz true https://index.example/f/foo-1.0.tar.gz size=Some(12) sha=true py=- up=2019-03-13T10:11:12.345678Z yanked=Some(\"broken\") meta=None",
        "1.1 foo-1.1-py3-none-any.whl false https://index.example/simple/foo/foo-1.1-py3-none-any.whl size=None sha=false py=- up=- yanked=Some(\"\") meta=Some(false)",
    ];
    assert_eq!(page("foo", JSON, &body).unwrap(), expected);
    assert_eq!(page("foo", "text/plain", &body).unwrap(), expected);
}

#[test]
fn html_pages() {
    let body = format!(
        r#"<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.1">
        <base href="https://files.example/pool/"></head><body>
        <!-- <a href="foo-9.9.tar.gz">no</a> -->
        <a href="foo-1.0.tar.gz#md5=1&sha256={HEX}" data-requires-python="&gt;=3.6">text is not a name</a>
        <A HREF='/abs/Foo-1.1%2Blocal.1-py3-none-any.whl' data-yanked data-dist-info-metadata="true">x</A>
        <a href="foo-1.2-py3-none-any.whl?token=a/b#sha256=bad" data-yanked="why &amp; how" data-core-metadata="sha256={HEX}">x</a>
        <a href="../">up</a><a name="x">no</a></body>"#
    );
    assert_eq!(
        page("foo", "text/html; charset=utf-8", &body).unwrap(),
        [
            "1.0 foo-1.0.tar.gz true https://files.example/pool/foo-1.0.tar.gz size=None sha=true py=>=3.6 up=- yanked=None meta=None",
            "1.1+local.1 Foo-1.1+local.1-py3-none-any.whl false https://files.example/abs/Foo-1.1%2Blocal.1-py3-none-any.whl size=None sha=false py=- up=- yanked=Some(\"\") meta=Some(false)",
            "1.2 foo-1.2-py3-none-any.whl false https://files.example/pool/foo-1.2-py3-none-any.whl?token=a/b size=None sha=false py=- up=- yanked=Some(\"why & how\") meta=Some(true)",
        ]
    );
}

#[test]
fn what_is_no_page_is_refused() {
    for (content_type, body, message) in [
        ("application/pdf", "", "its content type is `application/pdf`"),
        (
            "application/vnd.pypi.simple.v2+json",
            "{}",
            "its content type is `application/vnd.pypi.simple.v2+json`",
        ),
        ("", "hello", "its content type is ``"),
        (JSON, "{", "broken JSON"),
        (
            JSON,
            r#"{"meta": {"api-version": "2.0"}, "files": []}"#,
            "repository version `2.0` is not supported: 1.x is",
        ),
        (
            "text/html",
            r#"<meta name="pypi:repository-version" content="2.0">"#,
            "repository version `2.0` is not supported: 1.x is",
        ),
    ] {
        let error = page("foo", content_type, body).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    assert!(page("foo", "text/html", "").unwrap().is_empty());
}

#[test]
fn wheels_for_other_systems_are_left_out_where_there_are_others() {
    let body = |names: &[&str]| -> String {
        names.iter().flat_map(|name| ["<a href='", name, "'>x</a>"]).collect()
    };
    let (mac, windows) = ("foo-1-cp313-cp313-macosx_11_0_arm64.whl", "foo-1-py3-none-win32.whl");
    let (sdist, any) = ("foo-1.tar.gz", "foo-1-py3-none-any.whl");
    let linux = "foo-1-cp313-cp313-musllinux_1_2_x86_64.whl";
    for (listed, left) in [
        (vec![mac, windows], vec![mac, windows]),
        (vec![mac, windows, sdist], vec![mac, windows, sdist]),
        (vec![linux, mac, windows, sdist], vec![linux, sdist]),
        (vec![mac, any], vec![any]),
    ] {
        let lines = page("foo", "text/html", &body(&listed)).unwrap();
        assert_eq!(lines.len(), left.len(), "{lines:?}");
        assert!(lines.iter().zip(left).all(|(line, name)| line.contains(name)), "{lines:?}");
    }
}

#[test]
fn addresses_are_what_they_were_however_they_end() {
    for (text, is_cut) in [
        ("https://files.example/a/b/foo-1.0.tar.gz", true),
        ("https://files.example/foo-1.0.tar.gz", true),
        ("https://files.example/get?name=foo-1.0.tar.gz", false),
        ("https://files.example/other-foo-1.0.tar.gz", false),
        ("https://files.example/foo-1.0.tar.gz?token=a", false),
    ] {
        let url = Url::parse(text).unwrap();
        let address = Address::new(&url, "foo-1.0.tar.gz");
        assert_eq!(address.url("foo-1.0.tar.gz").unwrap(), url);
        assert_eq!(address.url("x").unwrap() != url, is_cut, "{text}");
    }
    let folder = Url::parse("https://files.example/foo/?from=a/").unwrap();
    let mut url = Address::new(&folder, "foo-1.0.tar.gz").url("x").unwrap();
    url.set_fragment(None);
    assert_eq!(url, folder);
}

#[test]
fn names_of_sdists() {
    for (project, file_name, version) in [
        ("zope-interface", "zope.interface-8.1.tar.gz", Some("8.1")),
        ("zope-interface", "zope_interface-8.1.tar.gz", Some("8.1")),
        ("zope-interface", "zope-interface-6.4.post2.zip", Some("6.4.post2")),
        ("foo", "foo-2-1.0.tar.gz", None),
        ("foo-2", "foo-2-1.0.tar.gz", Some("1.0")),
        ("foo", "foo-1.0-1.tar.gz", Some("1.0.post1")),
        ("foo", "foo-1.0.tar.bz2", None),
        ("foo", "foo.tar.gz", None),
        ("foo", "../foo-1.0.tar.gz", None),
        ("foo", "foo-1.0/x.tar.gz", None),
    ] {
        let found =
            kind(&project.parse().unwrap(), file_name).map(|(version, _)| version.to_string());
        assert_eq!(found.as_deref(), version, "{file_name}");
    }
}
