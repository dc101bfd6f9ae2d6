"""Which addresses and URLs pictures may be fetched from."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poolrt.serve.media import urls
from poolrt.serve.media.addresses import refusal

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "185.199.108.133", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
    "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
    "192.0.1.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
    "168.63.129.15", "2606:4700::1111", "2a00:1450:4001:81b::200e", "2001:4860:4860::8888",
    "::ffff:8.8.8.8", "64:ff9b::808:808",
]  # fmt: skip
NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.0", "100.100.100.200", "100.127.255.255",
    "127.0.0.1", "127.255.255.254", "169.254.169.254", "169.254.0.1", "172.16.0.1", "172.31.255.255",
    "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255",
    "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "168.63.129.16", "::", "::1", "fe80::1", "fe80::1%eth0", "2606:4700::1111%eth0", "fc00::1",
    "fd00:ec2::254", "fd20:ce::254", "fec0::1", "ff02::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1",
    "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "3fff::1",
    "2606:4700::5efe:7f00:1", "2606:4700::200:5efe:7f00:1", "4000::1", "1fff::1",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_is_fetched_from(text):
    assert refusal(ip_address(text)) is None


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_an_address_inside_a_network_is_refused(text):
    assert refusal(ip_address(text))


@given(st.ip_addresses(v=4))
@settings(max_examples=200)
def test_a_v4_address_means_the_same_inside_a_v6_address(address):
    mapped = ip_address(f"::ffff:{address}")
    translated = ip_address(int(ip_address("64:ff9b::")) + int(address))
    assert bool(refusal(address)) == bool(refusal(mapped)) == bool(refusal(translated))
    # Never more is public than Python's own table says.
    assert refusal(address) or address.is_global


@given(st.ip_addresses(v=6))
@settings(max_examples=200)
def test_a_public_v6_address_is_one_for_python_too(address):
    embedded = address.ipv4_mapped is not None or str(address).startswith("64:ff9b::")
    assert refusal(address) or embedded or address.is_global


@pytest.mark.parametrize(
    ("text", "authority", "target"),
    [
        ("http://a.example", "a.example", "/"),
        ("HTTPS://A.Example./x/y.png?q=1&r=%20#top", "a.example", "/x/y.png?q=1&r=%20"),
        ("http://a.example:8080/ä b".replace(" ", "%20"), "a.example:8080", "/%C3%A4%20b"),
        ("https://a.example:443/", "a.example", "/"),
        ("http://[2606:4700::1111]:81/", "[2606:4700::1111]:81", "/"),
        ("http://bücher.example/", "xn--bcher-kva.example", "/"),
        ("http://a.example?x=1", "a.example", "/?x=1"),
    ],
)
def test_a_url_is_read_in_parts(text, authority, target):
    url = urls.read(text)
    assert (url.authority, url.target) == (authority, target)


@pytest.mark.parametrize(
    "text",
    [
        "http://user@a.example/", "http://user:password@a.example/", "http://a.example\\@evil.example/",
        "http:///x", "http://", "http://a.example:0/", "http://a.example:/", "http://a.example:99999/",
        "http://a.example:x/", "http://a b/", "http://a.example/\n", "http://a.example/\x00",
        "http://[::1/", "http://[fe80::1%25eth0]/", "ftp://a.example/", "gopher://a.example/", "//a.example",
        "a.example/x.png", "http://" + "a" * 300 + ".example/", "http://a..example/", "http://-/",
        "http://a.example/" + "x" * 9000, "http://\ud800.example/", "javascript:alert(1)", "",
    ],
)  # fmt: skip
def test_a_url_that_could_be_read_in_two_ways_is_refused(text):
    with pytest.raises(urls.UrlError):
        urls.read(text)


@given(st.text(max_size=60))
@settings(max_examples=200)
def test_no_url_breaks_the_reader(text):
    for url in (text, "http://" + text, "https://a.example/" + text):
        try:
            read = urls.read(url)
        except urls.UrlError:
            continue
        assert read.target.isascii()
        assert read.host.isascii()
        assert " " not in str(read)


@pytest.mark.parametrize(
    ("domain", "url", "answer"),
    [
        ("a.example", "http://a.example/", True),
        ("a.example", "https://A.EXAMPLE./", True),
        ("A.Example", "https://a.example/", True),
        ("a.example", "http://a.example:8080/", False),
        ("a.example:8080", "http://a.example:8080/", True),
        ("a.example:8080", "http://a.example/", False),
        ("a.example", "http://b.a.example/", False),
        ("a.example", "http://aa.example/", False),
        ("a.example", "http://a.example.evil.example/", False),
        ("*", "http://anything.example/", True),
        ("*", "http://anything.example:22/", False),
        ("not a host", "http://a.example/", False),
        ("2606:4700::1111", "http://[2606:4700::1111]/", True),
    ],
)
def test_a_domain_admits_its_own_host_only(domain, url, answer):
    assert urls.allowed(urls.read(url), ("other.example", domain)) == answer
    assert not urls.allowed(urls.read(url), ())


def test_a_redirect_is_read_like_a_first_url():
    url = urls.read("https://a.example/x/y.png")
    assert str(urls.redirected(url, "../z.png?q")) == "https://a.example/z.png?q"
    assert urls.redirected(url, "//b.example/").host == "b.example"
    for location in ("http://a.example/", "file:///etc/passwd", "https://u:p@a.example/", "data:image/png,x"):
        with pytest.raises(urls.UrlError):
            urls.redirected(url, location)
