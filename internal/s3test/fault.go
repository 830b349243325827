package s3test

import (
	"bytes"
	"fmt"
	"io"
	"math"
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
	// CutBody cuts the connection after half of the answer's body. An answer without a body is dropped.
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

// withoutServer does what a fault wants that keeps the request from the server, and tells whether it did.
func (p *Proxy) withoutServer(w http.ResponseWriter, r *http.Request, fault Fault) bool {
	switch fault {
	case CutBefore:
		panic(http.ErrAbortHandler)
	case SlowDown:
		// An answer before the end of the body would be lost when the connection is closed upon the rest, but who
		// waits for a 100 Continue must not get it.
		if r.Header.Get("Expect") == "" {
			_, _ = io.Copy(io.Discard, r.Body) // a client that went away needs no answer
		}
		refuse(w, r, http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")
		return true
	case Hang:
		_, _ = io.Copy(io.Discard, r.Body) // only then the server watches whether the client goes away
		select {
		case <-r.Context().Done():
		case <-p.closed:
		}
		panic(http.ErrAbortHandler)
	default:
		return false
	}
}

// answer sends the server's answer, or what the fault makes of it.
func (p *Proxy) answer(w http.ResponseWriter, r *http.Request, answer *http.Response, fault Fault) {
	limit := int64(math.MaxInt64)
	switch fault {
	case DropAnswer, InternalError:
		// To the end: the server may still be at work while it answers.
		_, _ = io.Copy(io.Discard, answer.Body)
		if fault == InternalError {
			refuse(w, r, http.StatusInternalServerError, "InternalError", "We encountered an internal error. Please try again.")
			return
		}
		panic(http.ErrAbortHandler)
	case CutBody:
		size := answer.ContentLength
		if size < 0 {
			body, _ := io.ReadAll(answer.Body) // lists and errors come without a length: small
			answer.Body, size = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		}
		if size == 0 || r.Method == http.MethodHead {
			panic(http.ErrAbortHandler)
		}
		limit = size / 2
	}
	if !p.pass(w, answer, limit) || fault == CutBody {
		_ = http.NewResponseController(w).Flush() // a half of nothing: the headers at least
		panic(http.ErrAbortHandler)
	}
}

// refuse answers with an error of S3.
func refuse(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?>`+"\n"+
			`<Error><Code>%s</Code><Message>%s</Message><RequestId>PROXY</RequestId><HostId>proxy</HostId></Error>`, code, message)
	}
}
