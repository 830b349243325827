package s3test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Request is what the proxy saw of a request.
type Request struct {
	// N counts from 1, in the order of arrival.
	N int
	// Method, Path (unescaped) and Query (raw, without the question mark) are those of the request line.
	Method, Path, Query string
	// Header has no Host.
	Header http.Header
	// Size of the body in bytes, -1 if the client did not say.
	Size int64
}

// Operation names what the request does: "LIST" for a list of objects; else the method, and after " ?" the parameter
// that makes it another operation, as in "POST ?delete", "POST ?uploads", "PUT ?partNumber", "POST ?uploadId" (complete), "DELETE
// ?uploadId" (abort), "GET ?location". Plain "PUT", "GET", "HEAD" and "DELETE" are about one object, or a bucket.
func (r Request) Operation() string {
	query, _ := url.ParseQuery(r.Query) // what could be parsed
	if r.Method == http.MethodGet && query.Has("list-type") {
		return "LIST"
	}
	for _, parameter := range []string{"delete", "uploads", "partNumber", "uploadId", "location", "versioning", "versions"} {
		if query.Has(parameter) {
			return r.Method + " ?" + parameter
		}
	}
	return r.Method
}

// Fault is what becomes of a request.
type Fault int

// The faults. A client that asks by Go's http.Transport must know that this sends a GET, HEAD or PUT without a body once more by
// itself, if the connection had been used before and is cut before the first byte of the answer. The second is another Request.
const (
	// None forwards the request and its answer.
	None Fault = iota
	// CutBefore cuts the connection; the server never sees the request.
	CutBefore
	// DropAnswer cuts the connection when the server has done it and answered; the client sees nothing of the answer.
	DropAnswer
	// CutBody cuts the connection after half of the answer's body. An answer with a body of less than two bytes is dropped.
	CutBody
	// SlowDown answers 503 with S3's error SlowDown; the server never sees the request.
	SlowDown
	// InternalError answers 500 with S3's error InternalError when the server has done it.
	InternalError
	// Hang takes the request's body and then does nothing until the client gives up; the server never sees the request.
	Hang
)

// String returns the name, for messages and names of subtests.
func (f Fault) String() string {
	names := []string{"None", "CutBefore", "DropAnswer", "CutBody", "SlowDown", "InternalError", "Hang"}
	if f < 0 || int(f) >= len(names) {
		return fmt.Sprintf("Fault(%d)", int(f))
	}
	return names[f]
}

// Faults returns all faults but None.
func Faults() []Fault {
	return []Fault{CutBefore, DropAnswer, CutBody, SlowDown, InternalError, Hang}
}

// drainUnlessAsked reads the body of a request that is refused: an answer before its end would be lost, as the connection is closed
// when more comes. But a client that waits for a 100 Continue sends nothing and must not be asked to.
func drainUnlessAsked(r *http.Request) {
	if r.Header.Get("Expect") == "" {
		_, _ = io.Copy(io.Discard, r.Body) // a client that went away needs no answer
	}
}

// hang waits until the client goes away or the proxy ends.
func (p *Proxy) hang(r *http.Request) bool {
	_, _ = io.Copy(io.Discard, r.Body) // only after its end the context follows the connection
	select {
	case <-r.Context().Done():
	case <-p.closed:
	}
	return false
}

// halve returns half the size of the answer's body.
func halve(answer *http.Response) int64 {
	size := answer.ContentLength
	if size < 0 {
		body, _ := io.ReadAll(answer.Body) // lists and errors come without a length: small
		answer.Body, size = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	return size / 2
}

// refuse answers with an error of S3.
func refuse(w http.ResponseWriter, r *http.Request, status int, code, message string) bool {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?>`+"\n"+
			`<Error><Code>%s</Code><Message>%s</Message><RequestId>PROXY</RequestId><HostId>proxy</HostId></Error>`, code, message)
	}
	return true
}
