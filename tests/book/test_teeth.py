def test_teeth(built, look):
    p=built[0]/"book/index.html"; t=p.read_text()
    p.write_text(t.replace("<h1>", '<div style="width:2000px;height:2px"></div><img src="https://example.org/a.png"><h1>',1))
    s=look("book/index.html", width=390); p.write_text(t)
    print(s["sticking_out"], [x for x in s["loaded"] if "http" in x])
    assert 0
