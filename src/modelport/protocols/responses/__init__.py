"""OpenAI's Responses API, which some other services and servers implement too.

`request` turns a request into a JSON body, whose `input` is a list of items: `items` makes them from the messages.
`response` turns a response or the events of a stream into deltas. The items of a response become provider data, which
`items` sends back unchanged in later requests. `errors` reads the errors inside of responses and streams.

See https://developers.openai.com/api/reference/resources/responses and https://www.openresponses.org
"""
