package repo

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

type testBody struct {
	Name string `json:"name"`
}

func TestDocumentIsReadable(t *testing.T) {
	data, err := encodeDocument("pins/x", "pgbak-test", testBody{"a <name> & more"})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"format":"pgbak-test","key":"pins/x","sha256":"194de00cd66f5922e8f637ec71e19cb20ec3f0741ddbcfe3101e46bb183dcece","body":{"name":"a \u003cname\u003e \u0026 more"}}` + "\n"
	if string(data) != want {
		t.Errorf("%s, want %s", data, want)
	}
	var body testBody
	if _, err := decodeDocument("pins/x", "pgbak-test", data, &body); err != nil || body.Name != "a <name> & more" {
		t.Errorf("%+v, %v", body, err)
	}
}

func TestDocumentsAreRefused(t *testing.T) {
	data, err := encodeDocument("pins/x", "pgbak-test", testBody{"value"})
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) []byte {
		if !strings.Contains(string(data), old) {
			t.Fatalf("no %s in %s", old, data)
		}
		return []byte(strings.Replace(string(data), old, new, 1))
	}
	for _, test := range []struct {
		title string
		data  []byte
		want  string
	}{
		{"when they are empty", nil, "not a JSON document"},
		{"when they are no JSON", []byte("PGBKPACK"), "not a JSON document"},
		{"when they are cut", data[:len(data)-3], "not a JSON document"},
		{"when something follows", append(bytes.Clone(data), '{'), "not a JSON document"},
		{"when they are of another kind", replace("pgbak-test", "pgbak-pin"), `it says format "pgbak-pin", want "pgbak-test"`},
		{"when they belong to another key", replace("pins/x", "pins/y"), `it is the object "pins/y"`},
		{"when the body was changed", replace("value", "other"), "checksum of its body does not match"},
		{"when the checksum was changed", replace(`"sha256":"`, `"sha256":"0`), "checksum of its body does not match"},
		{"when the body has another type", replace(`"sha256"`, `"sha256":"37517e5f3dc66819f61f5a7bb8ace1921282415f10551d2defa5c3eb0985b570","x"`), "checksum"},
		{"when there is no body", []byte(`{"format":"pgbak-test","key":"pins/x","sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}`), "body"},
	} {
		t.Run(test.title, func(t *testing.T) {
			var body testBody
			_, err := decodeDocument("pins/x", "pgbak-test", test.data, &body)
			expectError(t, err, test.want)
			expectError(t, err, "object pins/x is damaged")
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("%v is no ErrDamaged", err)
			}
		})
	}
}

func TestDocumentMayHaveFieldsThatThisVersionDoesNotKnow(t *testing.T) {
	type newer struct {
		testBody
		More string `json:"more"`
	}
	data, err := encodeDocument("k", "pgbak-test", newer{testBody{"value"}, "future"})
	if err != nil {
		t.Fatal(err)
	}
	var body testBody
	if _, err := decodeDocument("k", "pgbak-test", data, &body); err != nil || body.Name != "value" {
		t.Errorf("%+v, %v", body, err)
	}
}
